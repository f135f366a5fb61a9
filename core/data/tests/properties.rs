//! What holds for any row, any text and any chain of loss scales (`apus_data::invariants`), with
//! generated input. The fuzz targets in `fuzz/` call the same functions.

mod data_common;

use apus_data::chat::dialect::harmony::{self, Harmony};
use apus_data::chat::{
    Chain, ChatTemplate, EncodeOptions, Encoder, RenderOptions, TrainHeader, TrainStop,
};
use apus_data::invariants;
use apus_sdk::{DatasetFormat, Field, Turn};
use data_common::{chain, format, tiny_tokenizer};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

const FORMATS: [&str; 5] = ["messages", "sharegpt", "alpaca", "query_response", "tokens"];
const PIECES: [&str; 20] = [
    "",
    " ",
    "\n",
    "a",
    "é",
    "\u{1f600}",
    "word ",
    "<",
    "<|",
    "|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "Action:",
    "Action Input:",
    "Thought:",
    "Observation:",
    "Final Answer:",
    "\u{273f}FUNCTION\u{273f}:",
];
const MARKERS: [&str; 15] = [
    "<|start|>",
    "<|start|>assistant",
    "<|channel|>",
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>commentary json<|message|>",
    " to=functions.f",
    "<|message|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|constrain|>",
    "{\"a\": 1}",
    "[['a', None]]",
    "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>a",
];
const COLUMNS: [&str; 31] = [
    "messages",
    "conversations",
    "conversation",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "system_prompt",
    "query",
    "question",
    "Prompt",
    "response",
    "answer",
    "answers",
    "text",
    "tools",
    "channel",
    "chat_template_kwargs",
    "images",
    "input_ids",
    "labels",
    "loss_scale",
    "other",
    "functions",
    "developer",
    "reasoning_effort",
    "thinking",
    "reasoning",
    "id",
    "attention_mask",
];
/// Marks of what is trained.
const MARKS: [&str; 5] = ["loss", "train", "weight", "loss_mask", "loss_scale"];
const KEYS: [&str; 35] = [
    "role",
    "from",
    "content",
    "value",
    "thinking",
    "reasoning_content",
    "tool_calls",
    "loss",
    "loss_scale",
    "human",
    "gpt",
    "user",
    "assistant",
    "type",
    "text",
    "id",
    "tool_use_id",
    "name",
    "arguments",
    "input",
    "function",
    "description",
    "channel",
    "recipient",
    "author",
    "function_call",
    "refusal",
    "reasoning_details",
    "thoughts",
    "instructions",
    "model_identity",
    "tools",
    "tool_call_id",
    "is_error",
    "sender",
];
/// Names of types and channels, and what else is looked for in values.
const TYPES: [&str; 12] = [
    "text",
    "thinking",
    "tool_use",
    "tool_result",
    "image",
    "f",
    "analysis",
    "commentary",
    "final",
    "functions.f",
    "system_content",
    "developer_content",
];
const ROLES: [&str; 12] = [
    "system",
    "developer",
    "user",
    "human",
    "assistant",
    "gpt",
    "tool",
    "tool_call",
    "tool-response",
    "observation",
    "narrator",
    "",
];

fn text() -> impl Strategy<Value = String> {
    let plain = || select(&PIECES[..]).prop_map(str::to_owned);
    let piece =
        prop_oneof![3 => plain(), 2 => select(&MARKERS[..]).prop_map(str::to_owned), 1 => ".{0,6}"];
    let piece = prop_oneof![5 => piece, 1 => select(CONTROL.as_slice())];
    let joined = |pieces: Vec<String>| pieces.concat();
    prop_oneof![4 => vec(plain(), 0..6).prop_map(joined), 1 => vec(piece, 0..8).prop_map(joined)]
}

fn key() -> impl Strategy<Value = String> {
    select(&KEYS[..]).prop_map(str::to_owned)
}

/// Any JSON, its texts and keys near to what formats look for.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => text().prop_map(Value::from),
        2 => select(&TYPES[..]).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-3i64..300).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((key(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn mark() -> impl Strategy<Value = (String, Value)> {
    let values = [json!(true), json!(false), json!(0), json!(1), json!(0.5)];
    (
        select(&MARKS[..]).prop_map(str::to_owned),
        select(values.to_vec()),
    )
}

/// A message, mostly one that can be read.
fn message() -> impl Strategy<Value = Value> {
    let role =
        prop_oneof![6 => select(&["user", "assistant", "tool"][..]), 1 => select(&ROLES[..])];
    let call = text().prop_map(|text| json!([{"name": "f", "arguments": {"x": text}}]));
    let content = prop_oneof![20 => text().prop_map(Value::from), 1 => json()];
    let fields = (
        role,
        content,
        option::weighted(0.2, text()),
        option::weighted(0.2, call),
        option::weighted(0.2, any::<bool>()),
        option::weighted(0.2, 0.0..3.0),
        option::weighted(0.05, (key(), json())),
        option::weighted(0.1, mark()),
    );
    fields.prop_map(
        |(role, content, thinking, calls, loss, scale, other, mark)| {
            let mut fields = Map::new();
            fields.insert("role".to_owned(), role.into());
            fields.insert("content".to_owned(), content);
            let mut add = |key: &str, value: Option<Value>| {
                fields.extend(value.map(|value| (key.to_owned(), value)));
            };
            add("thinking", thinking.map(Value::from));
            add("tool_calls", calls);
            add("loss", loss.map(Value::from));
            add("loss_scale", scale.map(Value::from));
            fields.extend(other);
            fields.extend(mark);
            Value::Object(fields)
        },
    )
}

fn row() -> impl Strategy<Value = String> {
    let column = select(&COLUMNS[..]).prop_map(str::to_owned);
    let list = vec(message(), 0..6).prop_map(Value::from).boxed();
    let value = prop_oneof![3 => json(), 1 => list.clone(), 2 => text().prop_map(Value::from),
        1 => list.clone().prop_map(|list| Value::from(list.to_string()))];
    let others = vec((column, value), 0..3);
    let marks = option::weighted(
        0.1,
        prop_oneof![3 => mark(), 1 => (mark(), 1..6usize)
        .prop_map(|((name, mark), count)| (name, Value::from(vec![mark; count])))],
    );
    (option::weighted(0.8, list), others, marks).prop_map(|(messages, others, marks)| {
        let mut row: Map<String, Value> = others.into_iter().chain(marks).collect();
        row.extend(messages.map(|messages| ("messages".to_owned(), messages)));
        Value::Object(row).to_string()
    })
}

/// A template that writes harmony, and cannot tell what was typed.
const TEMPLATE: &str = "<|start|>system<|message|>{{ model_identity|default('I') }}<|end|>\
    {%- for m in messages -%}{%- if m.role == 'assistant' -%}\
    {%- if m.thinking -%}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{%- endif -%}\
    {%- if m.tool_calls -%}{%- set call = m.tool_calls[0].function -%}\
    <|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>{{ call.arguments|tojson }}<|call|>\
    {%- else -%}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{%- endif -%}\
    {%- elif m.role == 'tool' -%}<|start|>functions.f to=assistant<|channel|>commentary<|message|>{{ m.content|tojson }}<|end|>\
    {%- else -%}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>{%- endif -%}\
    {%- endfor -%}{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}";

fn jinja() -> ChatTemplate {
    ChatTemplate::jinja(
        &Harmony,
        TEMPLATE.to_owned(),
        "a test's template",
        &Value::Null,
    )
    .unwrap()
}

fn encoder(
    template: ChatTemplate,
    scales: &str,
    train_header: TrainHeader,
    keep_thinking: bool,
) -> Encoder {
    let options = EncodeOptions {
        train_header,
        train_stop: TrainStop::AsGenerated,
        render: RenderOptions {
            date: Some("2025-08-05".to_owned()),
            keep_thinking,
            ..RenderOptions::default()
        },
        ..EncodeOptions::default()
    };
    Encoder::new(tiny_tokenizer(), template, chain("", scales), options).unwrap()
}

static ENCODERS: LazyLock<Vec<Encoder>> = LazyLock::new(|| {
    let (native, openai) = (Harmony::native, Harmony::openai);
    vec![
        encoder(native(), "default", TrainHeader::AfterPrompt, false),
        encoder(
            native(),
            "react+ignore_empty_think",
            TrainHeader::None,
            true,
        ),
        encoder(native(), "last_round+hermes", TrainHeader::Full, false),
        encoder(
            openai(),
            "all+ignore_think_prefix",
            TrainHeader::AfterPrompt,
            true,
        ),
        encoder(openai(), "default", TrainHeader::AfterPrompt, false),
        encoder(jinja(), "default", TrainHeader::AfterPrompt, false),
    ]
});
/// Encoders whose scales do not look at how reasoning is spelled.
static PLAIN: LazyLock<Vec<Encoder>> = LazyLock::new(|| {
    let (native, openai) = (Harmony::native, Harmony::openai);
    vec![
        encoder(native(), "default", TrainHeader::AfterPrompt, false),
        encoder(native(), "last_round+hermes", TrainHeader::None, true),
        encoder(native(), "all", TrainHeader::Full, true),
        encoder(openai(), "default", TrainHeader::AfterPrompt, false),
        encoder(openai(), "default", TrainHeader::Full, true),
    ]
});
static ALL: LazyLock<Vec<Box<dyn DatasetFormat>>> =
    LazyLock::new(|| FORMATS.iter().map(|name| format(name)).collect());
/// Every control token of the tokenizer, as somebody could type it.
static CONTROL: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tokenizer = tiny_tokenizer();
    let tokens = tokenizer.control().tokens().iter();
    tokens.map(|(text, _)| text.clone()).collect()
});
static SCALES: LazyLock<Vec<String>> = LazyLock::new(|| {
    apus_plugins::link();
    invariants::scales()
});

/// What holds for any row, and for any conversation in harmony.
fn row_in_harmony(row: &str, format: &dyn DatasetFormat, encoder: &Encoder) {
    for (sample, encoded) in invariants::row(row, format, encoder) {
        harmony::invariants::sample(&sample, &encoded, encoder);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_row_in_any_format(row in row(), which in 0..6usize) {
        for format in ALL.iter() {
            row_in_harmony(&row, format.as_ref(), &ENCODERS[which]);
        }
    }

    #[test]
    fn any_chain_is_a_fold(text in text(), names in vec(select(SCALES.as_slice()), 1..4), query in option::of(text())) {
        let turn = Turn { role: "assistant", field: Field::Content, query: query.as_deref(), is_last: true };
        let links: Vec<Chain> = names.iter().map(|name| chain("", name)).collect();
        invariants::chain_is_a_fold(&text, &turn, &chain("", &names.join("+")), &links);
    }

    #[test]
    fn any_turn_in_all_of_its_spellings(thinking in text(), text in text(), argument in option::of(text()), which in 0..5usize) {
        let turn = invariants::Turn::new(&thinking, &text, argument.as_deref());
        let more = harmony::invariants::in_channels(&turn.thinking, &turn.text, turn.arguments.as_ref());
        invariants::spelled_alike(&turn, more, ALL[0].as_ref(), &PLAIN[which]);
    }

    #[test]
    fn any_text_as_harmony(text in text()) {
        harmony::invariants::text(&text);
    }
}

/// The chains are made of every scale that ms-swift has.
#[test]
fn all_scales_are_tried() {
    for name in [
        "agentflan",
        "alpha_umi",
        "hermes",
        "ignore_empty_think",
        "ignore_think_prefix",
        "qwen",
        "react",
    ] {
        assert!(SCALES.iter().any(|known| known == name), "{name}");
    }
    assert!(!SCALES.iter().any(|known| known == "all" || known == "json"));
}

/// Every control token in every place that a row has for text: with a built-in renderer it is text, a
/// template's row is refused by name. No id of a token that was typed comes out, nor a label.
#[test]
fn a_typed_control_token_is_text_or_refused() {
    let texts = |text: &str| {
        let user = json!({"role": "user", "content": text});
        let say = |text: &str| json!({"role": "assistant", "content": text});
        let call = |name: &str, arguments: Value| {
            json!({"role": "assistant",
                "tool_calls": [{"name": name, "arguments": arguments}]})
        };
        let result = |content: Value| json!({"role": "tool", "content": content});
        let tool = |name: &str, description: &str, parameters: Value| {
            json!({"type": "function", "function":
                {"name": name, "description": description, "parameters": parameters}})
        };
        let object = |key: &str, said: &str| {
            json!({"type": "object", "properties":
                {key: {"type": "string", "description": said, "enum": [said], "default": said}}})
        };
        let q = json!({"role": "user", "content": "q"});
        let f = || call("f", json!({}));
        [
            json!({"messages": [user, say("a")]}),
            json!({"messages": [q, say(text)]}),
            json!({"messages": [q, say(text), q, say("a")]}),
            json!({"messages": [{"role": "system", "content": text}, q, say("a")]}),
            json!({"messages": [{"role": "developer", "content": text}, q, say("a")]}),
            json!({"messages": [q, {"role": "assistant", "content": "a", "thinking": text}]}),
            json!({"messages": [q, say(&format!("<think>{text}</think>a"))]}),
            json!({"messages": [q, call("f", json!({"x": text})), result("r".into()), say("a")]}),
            json!({"messages": [q, call("f", json!({text: [text]}))]}),
            json!({"messages": [q, f(), result(text.into()), say("a")]}),
            json!({"messages": [q, f(), result(json!({text: [text]})), say("a")]}),
            json!({"messages": [q, say("a")], "tools": [tool(text, "d", object("x", "d"))]}),
            json!({"messages": [q, say("a")], "tools": [tool("f", text, object("x", "d"))]}),
            json!({"messages": [q, say("a")], "tools": [tool("f", "d", object("x", text))]}),
            json!({"messages": [q, say("a")], "tools": [tool("f", "d", object(text, "d"))]}),
            json!({"messages": [q, say("a")], "chat_template_kwargs": {"model_identity": text}}),
            json!({"query": text, "response": "a"}),
            json!({"query": "q", "response": text}),
            json!({"query": "q", "response": "a", "history": [[text, text]]}),
            json!({"instruction": text, "input": text, "output": text}),
            json!({"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]}),
            json!({"text": text}),
        ]
    };
    for token in CONTROL.iter() {
        for row in texts(token)
            .iter()
            .chain(&texts(&format!("see {token} here")))
        {
            let formats = ALL
                .iter()
                .map(|format| format.convert_text(&row.to_string()));
            let samples: Vec<_> = formats.flat_map(Result::unwrap_or_default).collect();
            assert!(!samples.is_empty(), "{row}");
            for (sample, encoder) in samples
                .iter()
                .flat_map(|s| ENCODERS.iter().map(move |e| (s, e)))
            {
                match encoder.encode_with_notes(sample) {
                    Ok((encoded, noted)) => {
                        assert!(encoder.template().is_built_in(), "{row}");
                        let text = encoder.tokenizer().decode(&encoded.input_ids, true);
                        assert!(
                            text.contains(token.as_str()) || noted.left_out + noted.dropped == 1,
                            "{row}"
                        );
                    }
                    Err(error) if encoder.template().is_built_in() => panic!("{row}: {error:#}"),
                    Err(error) => {
                        let said = format!("{error:#}");
                        assert!(
                            said.contains(token.as_str()) && said.contains("--template_backend"),
                            "{said}"
                        );
                    }
                }
            }
            for (format, encoder) in ALL
                .iter()
                .flat_map(|f| ENCODERS.iter().map(move |e| (f, e)))
            {
                row_in_harmony(&row.to_string(), format.as_ref(), encoder);
            }
        }
    }
}

/// Generated rows are not so broken that they show nothing.
#[test]
fn many_rows_can_be_encoded() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let encodes = |row: &str| {
        let mut samples = ALL
            .iter()
            .flat_map(|format| format.convert_text(row).unwrap_or_default());
        samples.any(|sample| ENCODERS[1].encode(&sample).is_ok())
    };
    let good = (0..500)
        .filter(|_| encodes(&row().new_tree(&mut runner).unwrap().current()))
        .count();
    assert!(good > 50, "{good} of 500");
}
