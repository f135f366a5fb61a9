//! Whatever a client sends, reading it does not panic. `fuzz/fuzz_targets/requests.rs` calls the same function.

use super::read_anything;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

const WORDS: [&str; 30] = [
    "",
    "a",
    "user",
    "assistant",
    "tool",
    "system",
    "function",
    "text",
    "json_schema",
    "json_object",
    "input_text",
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "auto",
    "required",
    "none",
    "\u{0}",
    "é",
    "<|message|>",
    "f",
    "x y",
    "{}",
    "{\"a\": 1}",
    "[",
    "call_1",
    "object",
    "#/$defs/a",
    "1e999",
];
const KEYS: [&str; 44] = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "tool_call_id",
    "id",
    "function",
    "name",
    "arguments",
    "tools",
    "tool_choice",
    "parameters",
    "response_format",
    "json_schema",
    "schema",
    "stream",
    "stream_options",
    "include_usage",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "temperature",
    "top_p",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "reasoning_content",
    "refusal",
    "audio",
    "prompt",
    "echo",
    "input",
    "instructions",
    "call_id",
    "output",
    "format",
    "summary",
    "chat_template_kwargs",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        select(&WORDS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((select(&KEYS[..]), inner), 0..8).prop_map(|fields| {
                Value::Object(
                    fields
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect::<Map<_, _>>(),
                )
            }),
        ]
    })
}

/// A request that can be read, for its parts to be replaced.
fn good() -> Value {
    json!({
        "model": "m", "n": 1, "stream": true, "stream_options": {"include_usage": true}, "temperature": 1, "logit_bias": {"1": 2},
        "stop": ["a"], "prompt": "a", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "2", "content": "a"},
            {"role": "tool", "tool_call_id": "1", "content": "a"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": true}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    })
}

/// Replaces what a path of numbers leads to.
fn replaced(value: &mut Value, path: &[usize], by: Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = by;
        return;
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let at = first % items.len();
            replaced(&mut items[at], rest, by);
        }
        Value::Object(fields) if !fields.is_empty() => {
            let at = first % fields.len();
            if let Some((_, inner)) = fields.iter_mut().nth(at) {
                replaced(inner, rest, by);
            }
        }
        other => *other = by,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_json_can_be_read(value in any_value()) {
        read_anything(value.to_string().as_bytes());
    }

    #[test]
    fn a_request_with_anything_in_it_can_be_read(path in vec(any::<usize>(), 1..6), value in any_value()) {
        let mut request = good();
        replaced(&mut request, &path, value);
        read_anything(request.to_string().as_bytes());
    }

    #[test]
    fn any_bytes_can_be_read(bytes in vec(any::<u8>(), 0..200)) {
        read_anything(&bytes);
    }
}
