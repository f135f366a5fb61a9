//! Both renderers and the tokenizer against reference conversations of transformers.

mod data_common;

use apus_core::chat::{ChatTemplate, RenderOptions};
use apus_sdk::{Conversation, Message};
use data_common::{conversation, golden, jinja, lines, tiny_tokenizer, tokenizer};
use serde_json::{Map, Value, json};

fn options(row: &Map<String, Value>) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: row
            .get("add_generation_prompt")
            .is_some_and(|flag| flag == true),
        date: row.get("date").and_then(Value::as_str).map(str::to_owned),
        ..RenderOptions::default()
    }
}

fn renderers() -> Vec<ChatTemplate> {
    [Some(ChatTemplate::native()), jinja()]
        .into_iter()
        .flatten()
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn reference_conversations() {
    let tokenizer = tokenizer();
    let rows = lines("harmony/harmony_goldens.jsonl");
    assert_eq!(rows.len(), 10);
    for renderer in renderers() {
        for row in &rows {
            let text = renderer.render(&conversation(row), &options(row)).unwrap();
            assert_eq!(Value::from(text.as_str()), row["text"], "{}", row["id"]);
            let tokens = tokenizer.encode_with_ends(&text).unwrap();
            assert_eq!(tokens.ids, ids(&row["input_ids"]), "{}", row["id"]);
            assert_eq!(tokenizer.decode(&tokens.ids, true), text);
        }
    }
    for row in lines("harmony/encode_goldens.jsonl") {
        let text = row["text"].as_str().unwrap();
        let tokens = tokenizer.encode_with_ends(text).unwrap();
        assert_eq!(tokens.ids, ids(&row["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens.ids, true), text);
    }
    let call = tokenizer.id("<|call|>").unwrap();
    assert!(tokenizer.is_special(call) && tokenizer.stop_ids().contains(&call));
}

#[test]
fn conversations_that_are_refused() {
    for row in lines("harmony/harmony_errors.jsonl") {
        let conversation = conversation(&row);
        for renderer in renderers() {
            let error = renderer
                .render(&conversation, &RenderOptions::default())
                .unwrap_err();
            let expected = row["error"].as_str().unwrap();
            let found = format!("{error:#}");
            assert!(
                renderer.is_native() || found.contains(expected),
                "{}: {found}",
                row["id"]
            );
        }
    }
}

#[test]
fn tiny_conversations() {
    let tokenizer = tiny_tokenizer();
    let inputs = lines("tiny/chat_train.jsonl");
    let expected = lines("tiny/chat_expected.jsonl");
    assert_eq!((inputs.len(), expected.len()), (8, 8));
    for renderer in renderers() {
        for (row, expected) in inputs.iter().zip(&expected) {
            let text = renderer
                .render(&conversation(row), &options(expected))
                .unwrap();
            assert_eq!(Value::from(text.as_str()), expected["text"]);
            assert_eq!(
                tokenizer.encode(&text).unwrap(),
                ids(&expected["input_ids"])
            );
        }
    }
    assert_eq!(tokenizer.bos(), Some(740));
    assert_eq!(tokenizer.pad(), Some(741));
    assert_eq!(tokenizer.eos(), [742, 741]);
    assert_eq!(tokenizer.stop_ids(), [742, 741, 748]);
    let loaded = ChatTemplate::load(&golden("tiny/model_bf16"), Default::default()).unwrap();
    assert!(loaded.is_native());
}

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "string", "nullable": true, "default": "x"}),
        json!({"type": "string", "enum": ["a", "b"], "default": "a", "description": "pick"}),
        json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}, "nullable": true}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}),
        json!({"type": "array", "items": {"type": "object", "properties": {
            "first_long_name": {"type": "integer"}, "second_long_name": {"type": "number"}}}}),
        json!({"type": "array", "items": {}}),
        json!({"type": ["string", "null"]}),
        json!({"type": ["object"], "default": null}),
        json!({"oneOf": [{"type": "string", "description": "d"}, {"type": "integer", "default": 3},
            {"type": "object"}], "default": "1"}),
        json!({"oneOf": [{"type": "object"}]}),
        json!({"type": "object", "properties": {
            "items": {"type": "string"},
            "deep": {"type": "object", "properties": {"x": {"type": "array"}}, "required": ["x"]},
            "any": {}}, "required": ["items"]}),
        json!({"type": "object", "default": {"b": 1.0, "a": [true, null, 1e20]}}),
        json!({"type": "integer", "default": 0}),
        json!({"description": "nothing said", "default": false}),
    ]
}

#[test]
fn tools_are_written_alike_by_both_renderers() {
    let Some(template) = jinja() else { return };
    let schemas = schemas();
    let all: Map<_, _> = schemas
        .iter()
        .enumerate()
        .map(|(i, s)| (format!("p{i}"), s.clone()))
        .collect();
    let tool = |properties: Value| {
        json!({"type": "function", "function": {"name": "f", "description": "d é",
            "parameters": {"type": "object", "properties": properties, "required": ["p0", "p3"]}}})
    };
    let mut sets = vec![vec![
        tool(json!(all)),
        tool(json!({"items": {"type": "string"}})),
    ]];
    sets.extend(
        schemas
            .iter()
            .map(|schema| vec![tool(json!({"p0": schema}))]),
    );
    for tools in sets {
        let conversation = Conversation {
            messages: vec![Message::new("system", ""), Message::new("user", "u")],
            tools,
            ..Conversation::default()
        };
        let options = RenderOptions::default();
        assert_eq!(
            ChatTemplate::native()
                .render(&conversation, &options)
                .unwrap(),
            template.render(&conversation, &options).unwrap()
        );
    }
}

#[test]
fn odd_conversations_are_written_alike_by_both_renderers() {
    let Some(template) = jinja() else { return };
    let cases = [
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "t"}, {"role": "user", "content": "c"}]),
        json!([{"role": "user", "content": "a"}, {"role": "system", "content": "late"}]),
        json!([{"role": "assistant", "content": "b"}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "plan", "tool_calls": [{"name": "f", "arguments": "x"}]},
            {"role": "tool", "content": ["r", 1.0]}, {"role": "tool", "content": null}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "t",
            "tool_calls": [{"name": "f", "arguments": {}}]}, {"role": "tool", "content": "r"}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "thinking": "t", "tool_calls": [{"name": "f", "arguments": {}}]},
            {"role": "tool", "content": "r"}, {"role": "assistant", "content": "d"}, {"role": "tool", "content": "r"}]),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]},
            {"role": "assistant", "tool_calls": [{"name": "g", "arguments": {}}], "thinking": "t"}, {"role": "tool", "content": "r"}]),
    ];
    for messages in cases {
        let row = json!({ "messages": messages });
        let conversation = conversation(row.as_object().unwrap());
        for add_generation_prompt in [false, true] {
            let options = RenderOptions {
                add_generation_prompt,
                model_identity: Some("I".to_owned()),
                system: Some("s".to_owned()),
                ..RenderOptions::default()
            };
            let native = ChatTemplate::native().render(&conversation, &options);
            match (native, template.render(&conversation, &options)) {
                (Ok(native), Ok(jinja)) => assert_eq!(native, jinja),
                (Err(_), Err(_)) => {}
                (native, jinja) => panic!("{messages}: {native:?} against {jinja:?}"),
            }
        }
    }
}
