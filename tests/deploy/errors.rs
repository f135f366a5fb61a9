//! Requests that cannot be meant get errors in OpenAI's form, with the field that is wrong.

use super::server::Server;
use serde_json::{Value, json};

#[test]
fn errors_are_openais_and_name_their_place() {
    let server = Server::start("--max_logprobs 5");
    let messages = json!([{"role": "user", "content": "hi"}]);
    let chat = |name: &str, value: Value| {
        let mut body = json!({"model": "tiny", "messages": messages, "max_tokens": 1});
        body[name] = value;
        body
    };
    let chat_path = "/v1/chat/completions";
    let text_path = "/v1/completions";
    let response_path = "/v1/responses";
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    for (path, body, status, param) in [
        (chat_path, chat("model", json!("gpt-4")), 404, "model"),
        (chat_path, chat("messages", json!([])), 400, "messages"),
        (
            chat_path,
            chat("messages", json!([{"role": "x", "content": "a"}])),
            400,
            "messages[0].role",
        ),
        (
            chat_path,
            chat(
                "messages",
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            ),
            400,
            "messages[0].content[0].type",
        ),
        (chat_path, chat("temperature", json!(3)), 400, "temperature"),
        (
            chat_path,
            chat("temperature", json!("hot")),
            400,
            "temperature",
        ),
        (chat_path, chat("top_p", json!(0)), 400, "top_p"),
        (chat_path, chat("n", json!(0)), 400, "n"),
        (
            chat_path,
            chat("max_tokens", json!(0)),
            400,
            "max_completion_tokens",
        ),
        (
            chat_path,
            chat("top_logprobs", json!(2)),
            400,
            "top_logprobs",
        ),
        (
            chat_path,
            chat("audio", json!({"voice": "a"})),
            400,
            "audio",
        ),
        (
            chat_path,
            chat("modalities", json!(["text", "audio"])),
            400,
            "modalities",
        ),
        (chat_path, chat("functions", json!([{}])), 400, "functions"),
        (
            chat_path,
            chat("logit_bias", json!({"1": 200})),
            400,
            "logit_bias.1",
        ),
        (
            chat_path,
            chat("logit_bias", json!({"999999": 1})),
            400,
            "logit_bias.999999",
        ),
        (chat_path, chat("stop", json!("")), 400, "stop"),
        (
            chat_path,
            chat(
                "tools",
                json!([{"type": "function", "function": {"name": "a b"}}]),
            ),
            400,
            "tools[0].name",
        ),
        (
            chat_path,
            chat("tool_choice", json!("required")),
            400,
            "tool_choice",
        ),
        (
            chat_path,
            chat("response_format", json!({"type": "xml"})),
            400,
            "response_format",
        ),
        (
            chat_path,
            chat("response_format", schema(json!({"type": 5}))),
            400,
            "response_format",
        ),
        (
            chat_path,
            chat(
                "response_format",
                schema(json!({"$ref": "http://example.org/a.json"})),
            ),
            400,
            "response_format",
        ),
        (
            chat_path,
            chat("stream_options", json!({"include_usage": true})),
            400,
            "stream_options",
        ),
        (text_path, json!({"model": "tiny"}), 400, ""),
        (
            text_path,
            json!({"model": "tiny", "prompt": []}),
            400,
            "prompt",
        ),
        (
            text_path,
            json!({"model": "tiny", "prompt": [99999]}),
            400,
            "prompt",
        ),
        (
            text_path,
            json!({"model": "tiny", "prompt": "a", "suffix": "b"}),
            400,
            "suffix",
        ),
        (
            text_path,
            json!({"model": "tiny", "prompt": "a", "logprobs": 6}),
            400,
            "logprobs",
        ),
        (
            text_path,
            json!({"model": "tiny", "prompt": "a", "max_tokens": 0}),
            400,
            "max_tokens",
        ),
        (
            response_path,
            json!({"model": "tiny", "input": "a", "previous_response_id": "resp_1"}),
            400,
            "previous_response_id",
        ),
        (
            response_path,
            json!({"model": "tiny", "input": [{"type": "item_reference", "id": "a"}]}),
            400,
            "input[0].type",
        ),
        (
            response_path,
            json!({"model": "tiny", "input": "a", "tools": [{"type": "web_search"}]}),
            400,
            "tools[0].type",
        ),
        (
            response_path,
            json!({"model": "tiny", "input": "a", "background": true}),
            400,
            "background",
        ),
    ] {
        let response = server.post(path, &body);
        let error = response.json()["error"].clone();
        assert_eq!(response.status, status, "{body}: {error}");
        assert_eq!(
            error["param"].as_str().unwrap_or_default(),
            param,
            "{body}: {error}"
        );
        assert_eq!(error["type"], "invalid_request_error", "{body}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(response.header("x-request-id").is_some());
    }
    let long = "word ".repeat(40_000);
    let response = server.post(
        chat_path,
        &chat("messages", json!([{"role": "user", "content": long}])),
    );
    assert_eq!(
        response.json()["error"]["code"],
        "context_length_exceeded",
        "{response:?}"
    );

    for (body, says) in [
        (
            "{\"model\": \"tiny\",\n \"messages\": [}",
            "line 2 column 15",
        ),
        ("", "no JSON"),
        ("[]", "a list, expected a JSON object"),
        ("\u{0}\u{ff}", "no JSON"),
        (&"[".repeat(100_000), "recursion limit"),
    ] {
        let response = server.post_with(chat_path, body, "");
        assert_eq!(response.status, 400, "{response:?}");
        let message = response.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(message.contains(says), "{says}: {message}");
    }
    let missing = server.get("/v2/models");
    assert_eq!(
        (
            missing.status,
            missing.json()["error"]["code"].as_str().unwrap()
        ),
        (404, "unknown_url")
    );
    let method = server.get(chat_path);
    assert_eq!(
        (
            method.status,
            method.json()["error"]["code"].as_str().unwrap()
        ),
        (405, "method_not_allowed")
    );
    let model = server.get("/v1/models/none");
    assert_eq!(
        (
            model.status,
            model.json()["error"]["code"].as_str().unwrap()
        ),
        (404, "model_not_found")
    );
    // The server goes on.
    assert_eq!(
        server
            .post(chat_path, &chat("temperature", json!(0)))
            .status,
        200
    );
}

#[test]
fn unknown_fields_are_named_in_the_log_with_the_id_of_the_request() {
    let server = Server::start("");
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "brand_new": 1, "user": "x"});
    let response = server.post_with(
        "/v1/chat/completions",
        &body.to_string(),
        "X-Request-Id: my.request-1\r\n",
    );
    assert_eq!(
        (response.status, response.header("x-request-id")),
        (200, Some("my.request-1"))
    );
    let start = std::time::Instant::now();
    while !server.said().contains("my.request-1") && start.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let said = server.said();
    let line = said
        .lines()
        .find(|line| line.contains("my.request-1"))
        .expect(&said);
    assert!(line.contains("POST /v1/chat/completions: 200"), "{line}");
    assert!(
        line.contains("unknown fields are not used: brand_new"),
        "{line}"
    );
    assert!(!line.contains("user"), "{line}");
    let odd = server.post_with("/v1/completions", "{}", "X-Request-Id: a b\u{7f}c\r\n");
    assert!(
        odd.header("x-request-id")
            .is_none_or(|id| id.starts_with("req_")),
        "{odd:?}"
    );
}
