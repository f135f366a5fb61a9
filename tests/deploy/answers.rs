//! Answers: streamed as they are whole, alike by every endpoint, held to schemas and calls.

use super::server::{GOLDENS, Server};
use serde_json::{Map, Value, json};

const CHAT: &str = "/v1/chat/completions";

fn ask(more: Value) -> Value {
    let mut body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 24,
        "ignore_eos": more.get("logit_bias").is_none(),
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// Biases that keep a model from writing these words: it then reasons no more.
pub fn without(words: &[&str]) -> Value {
    let text = std::fs::read_to_string(format!("{GOLDENS}/model_bf16/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&text).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let begins = |token: &&String| words.iter().any(|word| word.starts_with(token.as_str()));
    let ids = vocabulary.iter().filter(|(token, _)| begins(token));
    Value::Object(
        ids.map(|(_, id)| (id.to_string(), json!(-100)))
            .collect::<Map<_, _>>(),
    )
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    // So that the same request has the same bits.
    let server = Server::start("--max_batch_size 8 --deterministic true");
    for (temperature, n) in [(0.0, 1), (1.5, 3)] {
        let more = json!({"temperature": temperature, "n": n, "seed": 5, "logprobs": true, "top_logprobs": 2});
        let whole = server.post(CHAT, &ask(more.clone())).json();
        assert_eq!(whole["usage"]["completion_tokens"], 24 * n);
        let mut body = ask(more);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let streamed = server.post(CHAT, &body);
        assert_eq!(
            streamed.header("content-type"),
            Some("text/event-stream; charset=utf-8")
        );
        let mut events = streamed.events();
        assert_eq!(events.pop(), Some("[DONE]"));
        let chunks: Vec<Value> = events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect();
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let (mut text, mut reasoning, mut entries, mut reason) =
                (String::new(), String::new(), Vec::new(), Value::Null);
            for part in chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().unwrap())
            {
                if part["index"] != index {
                    continue;
                }
                text += part["delta"]["content"].as_str().unwrap_or_default();
                reasoning += part["delta"]["reasoning_content"]
                    .as_str()
                    .unwrap_or_default();
                entries.extend(
                    part["logprobs"]["content"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                );
                if !part["finish_reason"].is_null() {
                    assert!(reason.is_null(), "it ends once");
                    reason = part["finish_reason"].clone();
                }
            }
            assert_eq!(
                text,
                choice["message"]["content"].as_str().unwrap_or_default()
            );
            assert_eq!(
                reasoning,
                choice["message"]["reasoning_content"]
                    .as_str()
                    .unwrap_or_default()
            );
            assert_eq!(Value::from(entries), choice["logprobs"]["content"]);
            assert_eq!(reason, choice["finish_reason"]);
        }
    }
    let again = |seed: u64| {
        server
            .post(CHAT, &ask(json!({"temperature": 1.5, "seed": seed})))
            .json()["choices"]
            .clone()
    };
    assert_eq!(again(1), again(1));
    assert_ne!(again(1), again(2));
}

#[test]
fn a_completion_of_the_rendered_prompt_is_the_same_answer() {
    let server = Server::start("");
    let tokens = json!({"model": "tiny", "prompt": [1, 2, 3, 4, 5], "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    let whole = server.post("/v1/completions", &tokens).json();
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    // A stop string ends the answer before it, in a stream as well.
    let stop: String = text.chars().skip(3).take(2).collect();
    let expected = text.split(&stop).next().unwrap();
    let mut body = tokens.clone();
    body["stop"] = json!([stop]);
    let stopped = server.post("/v1/completions", &body).json();
    assert_eq!(
        (
            &stopped["choices"][0]["text"],
            &stopped["choices"][0]["finish_reason"]
        ),
        (&json!(expected), &json!("stop"))
    );
    body["stream"] = true.into();
    let streamed = server.post("/v1/completions", &body);
    let text: String = streamed
        .events()
        .iter()
        .filter_map(|event| {
            Some(
                serde_json::from_str::<Value>(event).ok()?["choices"][0]["text"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(text, expected);
    // Several prompts, several answers: each has its own index.
    let many =
        json!({"model": "tiny", "prompt": ["a", "b"], "n": 2, "max_tokens": 4, "temperature": 0});
    let many = server.post("/v1/completions", &many).json();
    let texts: Vec<&str> = many["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!((texts.len(), texts[0], texts[2]), (4, texts[1], texts[3]));
}

/// What is told of a text that is echoed is what was told of it when it was generated.
#[test]
fn echoed_texts_have_the_log_probabilities_of_generated_ones() {
    let server = Server::start(&format!("--adapters cat={GOLDENS}/adapter_grad_attn"));
    for model in ["tiny", "cat"] {
        let prompt = json!([5, 17, 99, 240]);
        let body = json!({
            "model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 3, "echo": true, "ignore_eos": true,
        });
        let first = server.post("/v1/completions", &body).json()["choices"][0].clone();
        let logprobs = &first["logprobs"];
        let values = logprobs["token_logprobs"].as_array().unwrap().clone();
        assert_eq!(values.len(), 12);
        assert!(values[0].is_null() && logprobs["top_logprobs"][0].is_null());
        // The ids of what was generated, by their texts: the tiny vocabulary has each text once.
        let text = std::fs::read_to_string(format!("{GOLDENS}/model_bf16/tokenizer.json")).unwrap();
        assert!(text.len() > 1000);
        let whole = first["text"].as_str().unwrap();
        let again =
            json!({"model": model, "prompt": whole, "max_tokens": 0, "logprobs": 3, "echo": true});
        let again = server.post("/v1/completions", &again).json()["choices"][0]["logprobs"].clone();
        if again["tokens"] == logprobs["tokens"] {
            for (a, b) in values
                .iter()
                .zip(again["token_logprobs"].as_array().unwrap())
                .skip(1)
            {
                assert!(
                    (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4,
                    "{a} {b}"
                );
            }
        }
        let offsets = logprobs["text_offset"].as_array().unwrap();
        assert_eq!((offsets.len(), &offsets[0]), (12, &json!(0)));
    }
}

#[test]
fn answers_are_held_to_schemas_and_calls() {
    let server = Server::start("");
    let bias = without(&["analysis"]);
    let schema = json!({
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["colour", "count"], "additionalProperties": false,
    });
    let fits = |text: &str| {
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(
            ["red", "green"].contains(&value["colour"].as_str().unwrap()),
            "{value}"
        );
        assert!(
            value["count"].as_u64().unwrap() < 100 && value.as_object().unwrap().len() == 2,
            "{value}"
        );
    };
    for seed in 0..3 {
        let more = json!({
            "temperature": 1.0, "seed": seed, "max_tokens": 300, "logit_bias": bias,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}},
        });
        let answer = server.post(CHAT, &ask(more)).json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        fits(answer["choices"][0]["message"]["content"].as_str().unwrap());
    }
    let response = server
        .post(
            "/v1/responses",
            &json!({
                "model": "tiny", "input": "hi", "max_output_tokens": 300, "logit_bias": bias,
                "text": {"format": {"type": "json_schema", "name": "a", "schema": schema}},
            }),
        )
        .json();
    assert_eq!(response["status"], "completed", "{response}");
    fits(
        response["output"][0]["content"][0]["text"]
            .as_str()
            .unwrap(),
    );

    let tools = json!([
        {"type": "function", "function": {"name": "paint", "parameters": schema}},
        {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}},
    ]);
    for (choice, name) in [
        (
            json!({"type": "function", "function": {"name": "paint"}}),
            "paint",
        ),
        (json!("required"), ""),
    ] {
        let mut body = ask(
            json!({"max_tokens": 300, "logit_bias": bias, "tools": tools, "tool_choice": choice}),
        );
        let whole = server.post(CHAT, &body).json();
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
        assert!(choice["message"]["content"].is_null());
        let call = choice["message"]["tool_calls"][0].clone();
        if !name.is_empty() {
            assert_eq!(call["function"]["name"], name);
            fits(call["function"]["arguments"].as_str().unwrap());
        }
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        // The stream has the same call in pieces.
        body["stream"] = true.into();
        let (mut named, mut arguments) = (String::new(), String::new());
        for event in server
            .post(CHAT, &body)
            .events()
            .iter()
            .filter(|event| **event != "[DONE]")
        {
            let chunk: Value = serde_json::from_str(event).unwrap();
            let function = &chunk["choices"][0]["delta"]["tool_calls"][0]["function"];
            named += function["name"].as_str().unwrap_or_default();
            arguments += function["arguments"].as_str().unwrap_or_default();
        }
        assert_eq!(
            (json!(named), json!(arguments)),
            (
                call["function"]["name"].clone(),
                call["function"]["arguments"].clone()
            )
        );
        // The call and its result go back to the model.
        let next = json!({"messages": [
            {"role": "user", "content": "hi"}, choice["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "done"},
        ], "tools": tools});
        assert_eq!(server.post(CHAT, &ask(next)).status, 200);
    }
}

#[test]
fn a_response_has_the_events_of_openai() {
    let server = Server::start("");
    let mut body = json!({"model": "tiny", "input": "hi", "temperature": 0, "max_output_tokens": 16, "instructions": "be kind", "ignore_eos": true});
    let whole = server.post("/v1/responses", &body).json();
    assert_eq!(
        (&whole["object"], &whole["status"]),
        (&json!("response"), &json!("incomplete"))
    );
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(whole["usage"]["output_tokens"], 16);
    body["stream"] = true.into();
    let events: Vec<Value> = server
        .post("/v1/responses", &body)
        .events()
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!(events[0]["type"], "response.created");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    let texts = |response: &Value| -> Vec<Value> {
        response["output"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["content"][0]["text"].clone())
            .collect()
    };
    assert_eq!(texts(&last["response"]), texts(&whole));
    let text: String = events
        .iter()
        .filter(|event| event["type"].as_str().unwrap().ends_with("text.delta"))
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    let all: String = texts(&whole)
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(text, all);
}
