//! The renderers and the tokenizer against reference conversations of transformers and of openai-harmony.

mod data_common;

use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::{ChatTemplate, Dialect, RenderOptions, Rendered};
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
    [Some(Harmony::native()), jinja()]
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
            let control = tokenizer.control();
            let rendered = renderer
                .render(&conversation(row), &options(row), control)
                .unwrap();
            assert_eq!(
                Value::from(rendered.text.as_str()),
                row["text"],
                "{}",
                row["id"]
            );
            let tokens = tokenizer.encode(&rendered).unwrap();
            assert_eq!(tokens.ids, ids(&row["input_ids"]), "{}", row["id"]);
            assert_eq!(tokenizer.decode(&tokens.ids, true), rendered.text);
        }
    }
    for row in lines("harmony/encode_goldens.jsonl") {
        let text = row["text"].as_str().unwrap();
        let rendered = Rendered::read(text.to_owned(), tokenizer.control());
        let tokens = tokenizer.encode(&rendered).unwrap();
        assert_eq!(tokens.ids, ids(&row["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens.ids, true), text);
    }
    let call = tokenizer.id("<|call|>").unwrap();
    assert!(
        tokenizer.is_special(call) && tokenizer.stop_ids(Harmony.stop_tokens()).contains(&call)
    );
}

#[test]
fn conversations_that_are_refused() {
    let tokenizer = tiny_tokenizer();
    for row in lines("harmony/harmony_errors.jsonl") {
        let conversation = conversation(&row);
        for renderer in renderers() {
            let error = renderer
                .render(
                    &conversation,
                    &RenderOptions::default(),
                    tokenizer.control(),
                )
                .unwrap_err();
            // Markers in a text are refused before the template sees them.
            let expected = match row["id"].as_str() {
                Some("e01_channel_tag_in_content") => {
                    "message 2 (assistant): the text holds <|channel|>"
                }
                _ => row["error"].as_str().unwrap(),
            };
            let found = format!("{error:#}");
            assert!(
                renderer.is_built_in() || found.contains(expected),
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
            let rendered = renderer
                .render(&conversation(row), &options(expected), tokenizer.control())
                .unwrap();
            assert_eq!(Value::from(rendered.text.as_str()), expected["text"]);
            let tokens = tokenizer.encode(&rendered).unwrap();
            assert_eq!(tokens.ids, ids(&expected["input_ids"]));
        }
    }
    assert_eq!(tokenizer.bos(), Some(740));
    assert_eq!(tokenizer.pad(), Some(741));
    assert_eq!(tokenizer.eos(), [742, 741]);
    assert_eq!(tokenizer.stop_ids(Harmony.stop_tokens()), [742, 741, 748]);
    let loaded =
        ChatTemplate::load(&golden("tiny/model_bf16"), &Harmony, Default::default()).unwrap();
    assert!(loaded.is_built_in() && loaded.writes_as_template());
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
    let tokenizer = tiny_tokenizer();
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
    let bare = |function: Value| vec![json!({"type": "function", "function": function})];
    let mut sets = vec![
        bare(json!({"name": "f"})),
        bare(json!({"name": "f", "description": null, "parameters": null})),
        vec![tool(json!(all)), tool(json!({"items": {"type": "string"}}))],
    ];
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
        let render = |template: &ChatTemplate| {
            let options = RenderOptions::default();
            template
                .render(&conversation, &options, tokenizer.control())
                .unwrap()
        };
        assert_eq!(render(&Harmony::native()), render(&template));
    }
}

#[test]
fn odd_conversations_are_written_alike_by_both_renderers() {
    let Some(template) = jinja() else { return };
    let tokenizer = tiny_tokenizer();
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
            let render = |template: &ChatTemplate| {
                template.render(&conversation, &options, tokenizer.control())
            };
            match (render(&Harmony::native()), render(&template)) {
                (Ok(native), Ok(jinja)) => assert_eq!(native, jinja),
                (Err(_), Err(_)) => {}
                (native, jinja) => panic!("{messages}: {native:?} against {jinja:?}"),
            }
        }
    }
}

/// For training, and with the prompt that goes on from there.
#[test]
fn conversations_of_openai_harmony() {
    let tokenizer = tokenizer();
    let renderer = Harmony::openai();
    let mut rows = lines("harmony/openai_harmony.jsonl");
    rows.extend(lines("harmony/openai_harmony_more.jsonl"));
    assert_eq!(rows.len(), 25 + 73);
    for row in &rows {
        for (add_generation_prompt, way) in [(false, "training"), (true, "completion")] {
            let options = RenderOptions {
                add_generation_prompt,
                ..options(row)
            };
            let rendered = renderer
                .render(&conversation(row), &options, tokenizer.control())
                .unwrap();
            let tokens = tokenizer.encode(&rendered).unwrap();
            let text = &row[&format!("{way}_text")];
            assert_eq!(rendered.text.as_str(), text, "{} {way}", row["id"]);
            let expected = ids(&row[&format!("{way}_ids")]);
            assert_eq!(tokens.ids, expected, "{} {way}", row["id"]);
        }
    }
}
