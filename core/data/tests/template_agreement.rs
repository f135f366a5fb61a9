//! The native renderer writes what the template of gpt-oss writes, whatever the conversation, so that one can stand in
//! for the other where the template has no place for something. The template is not part of the repository: without it
//! these tests say `skipped` and pass.

mod data_common;

use apus_data::chat::dialect::harmony::Harmony;
use apus_data::chat::template::Renderer;
use apus_data::chat::{ChatTemplate, Dialect, EncodeOptions, Encoder, RenderOptions, RowNotes};
use apus_sdk::{Conversation, Message, Sample, ToolCall};
use data_common::{chain, conversation, jinja, template_of_gpt_oss, tiny_tokenizer};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

fn encoder(template: ChatTemplate) -> Encoder {
    let options = EncodeOptions {
        render: RenderOptions {
            date: Some("2025-08-05".to_owned()),
            ..RenderOptions::default()
        },
        ..EncodeOptions::default()
    };
    Encoder::new(tiny_tokenizer(), template, chain("", "default"), options).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "",
            " ",
            "\n",
            "a",
            "word ",
            "é",
            "\u{1f600}",
            "\"",
            "'",
            "\\",
            "<",
            "{{ x }}",
            "// ",
        ][..],
    );
    vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    select(&["f", "get_it", "type", "items", "default"][..]).prop_map(str::to_owned)
}

/// A JSON schema, as definitions of tools have it.
fn schema() -> impl Strategy<Value = Value> {
    let kind = select(&["string", "number", "integer", "boolean", "null", "strange"][..]);
    let plain = prop_oneof![
        6 => kind.prop_map(|kind| json!({"type": kind})),
        1 => Just(json!({"type": ["string", "null"]})),
        1 => Just(json!({"type": "array"})),
        1 => Just(json!({})),
        2 => vec(text(), 1..4).prop_map(|values| json!({"type": "string", "enum": values})),
    ];
    let with = |schema: BoxedStrategy<Value>| {
        let default = prop_oneof![
            text().prop_map(Value::from),
            (-9i64..9).prop_map(Value::from)
        ];
        let fields = (
            schema,
            option::weighted(0.4, text()),
            option::weighted(0.2, default),
            option::weighted(0.2, any::<bool>()),
        );
        fields.prop_map(|(mut schema, description, default, nullable)| {
            if let Some(text) = description {
                schema["description"] = text.into();
            }
            if let Some(default) = default.filter(|d| d.is_string() || schema.get("enum").is_none())
            {
                schema["default"] = default;
            }
            if let Some(nullable) = nullable {
                schema["nullable"] = nullable.into();
            }
            schema
        })
    };
    with(plain.boxed()).prop_recursive(3, 12, 3, move |inner| {
        let inner = inner.boxed();
        let nested = prop_oneof![
            inner
                .clone()
                .prop_map(|items| json!({"type": "array", "items": items})),
            vec((name(), inner.clone()), 0..3).prop_map(|fields| {
                let fields: Map<String, Value> = fields.into_iter().collect();
                let required: Vec<String> = fields.keys().take(1).cloned().collect();
                json!({"type": "object", "properties": fields, "required": required})
            }),
            vec(inner, 1..3).prop_map(|variants| json!({"oneOf": variants})),
        ];
        with(nested.boxed())
    })
}

fn tools() -> impl Strategy<Value = Vec<Value>> {
    let parameters = vec((name(), schema()), 0..3).prop_map(|fields| {
        let fields: Map<String, Value> = fields.into_iter().collect();
        json!({"type": "object", "properties": fields})
    });
    let tool = (name(), text(), option::weighted(0.8, parameters));
    let tool = tool.prop_map(|(name, description, parameters)| {
        let mut function = json!({"name": name, "description": description});
        if let Some(parameters) = parameters {
            function["parameters"] = parameters;
        }
        json!({"type": "function", "function": function})
    });
    vec(tool, 0..3)
}

fn message() -> impl Strategy<Value = Message> {
    let role = select(&["user", "assistant", "assistant", "tool"][..]);
    let content = prop_oneof![8 => text().prop_map(Value::from), 1 => Just(Value::Null)];
    let call = (name(), text()).prop_map(|(name, text)| ToolCall {
        name,
        arguments: json!({"x": text, "y": [1, null]}),
    });
    let fields = (
        role,
        content,
        option::weighted(0.3, text()),
        option::weighted(0.3, call),
    );
    fields.prop_map(|(role, content, thinking, call)| {
        let is_answer = role == "assistant";
        Message {
            role: role.to_owned(),
            content,
            thinking: thinking.filter(|_| is_answer),
            tool_calls: call.filter(|_| is_answer).into_iter().collect(),
            ..Message::default()
        }
    })
}

fn any_conversation() -> impl Strategy<Value = Conversation> {
    let first = option::weighted(0.3, (select(&["system", "developer"][..]), text()));
    let kwargs = (option::weighted(0.2, text()), option::weighted(0.2, text()));
    (first, vec(message(), 1..7), tools(), kwargs).prop_map(
        |(first, mut messages, tools, (effort, identity))| {
            if let Some((role, text)) = first {
                messages.insert(0, Message::new(role, text));
            }
            let kwargs = [("reasoning_effort", effort), ("model_identity", identity)];
            let kwargs = kwargs
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
            Conversation {
                messages,
                tools,
                template_kwargs: kwargs.collect(),
                channel: None,
            }
        },
    )
}

#[test]
fn what_the_template_accepts_the_native_renderer_writes_alike() {
    use proptest::test_runner::{Config, TestCaseError, TestRunner};
    let Some(template) = jinja() else { return };
    let (jinja, native) = (encoder(template), encoder(Harmony::native()));
    let accepted = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    });
    let agree = |conversation: Conversation| {
        let sample = Sample::Conversation(conversation.clone());
        if let Ok(encoded) = jinja.encode(&sample) {
            accepted.set(accepted.get() + 1);
            let found = native.encode(&sample);
            let found = found.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            let text = |ids: &[u32]| native.tokenizer().decode(ids, true);
            prop_assert_eq!(text(&found.input_ids), text(&encoded.input_ids));
            prop_assert_eq!(found, encoded);
        }
        // The template leaves the reasoning of an answer out that was cut off.
        let reasons_only = |m: &Message| m.content.is_null() && m.tool_calls.is_empty();
        let has_all = !conversation.messages.iter().any(reasons_only);
        if let (true, Ok((text, _))) = (has_all, jinja.prompt(&conversation)) {
            let found = native.prompt(&conversation);
            let found = found.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            prop_assert_eq!(found.0, text);
        }
        Ok(())
    };
    runner.run(&any_conversation(), agree).unwrap();
    assert!(
        accepted.get() > 400,
        "only {} of 2000 were accepted",
        accepted.get()
    );
}

/// Under `auto` what has no place in the template of gpt-oss is written natively, and said; another template, or
/// `jinja`, refuses it.
#[test]
fn auto_writes_natively_what_the_template_has_no_place_for() {
    let Some(source) = template_of_gpt_oss() else {
        return;
    };
    let load = |source: &str, renderer| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
        encoder(ChatTemplate::load(dir.path(), &Harmony, renderer).unwrap())
    };
    let auto = load(&source, Renderer::Auto);
    let native = encoder(Harmony::native());
    let refusing = [
        load(&source, Renderer::Jinja),
        load(&format!("{source}{{# mine #}}"), Renderer::Auto),
    ];
    let call = json!([{"name": "f", "arguments": {}}]);
    let row = |answer: Value| {
        let row = json!({"messages": [{"role": "user", "content": "q"}, answer]});
        Sample::Conversation(conversation(row.as_object().unwrap()))
    };
    for (answer, said) in [
        (
            json!({"role": "assistant", "content": "w", "thinking": "r", "tool_calls": call}),
            "commentary",
        ),
        (
            json!({"role": "assistant", "content": "what <|end|> means"}),
            "<|end|>",
        ),
    ] {
        let sample = row(answer);
        let (encoded, notes) = auto.encode_with_notes(&sample).unwrap();
        assert_eq!(encoded, native.encode(&sample).unwrap());
        assert_eq!(notes.built_in, 1);
        let note = notes.notes(Harmony.row_notes()).join("\n");
        assert!(
            note.starts_with("1 row: the model's template has no place"),
            "{note}"
        );
        for encoder in &refusing {
            let bad = format!("{:#}", encoder.encode(&sample).unwrap_err());
            assert!(
                bad.contains(said) && bad.contains("--template_backend native"),
                "{bad}"
            );
        }
    }
    let cut_off = json!({"messages": [{"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "thinking": "r"}, {"role": "user", "content": "p"}]});
    let cut_off = conversation(cut_off.as_object().unwrap());
    let prompt = |encoder: &Encoder| encoder.prompt(&cut_off).unwrap().0;
    assert_eq!(prompt(&auto), prompt(&native));
    assert!(!prompt(&refusing[0]).contains("analysis<|message|>r"));
    let (_, notes) = auto
        .encode_with_notes(&row(json!({"role": "assistant", "content": "a"})))
        .unwrap();
    assert_eq!(notes, RowNotes::default());
}
