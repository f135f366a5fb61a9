//! What a client may send and how slowly, who it may be, and how many there may be.

use super::server::{MODEL, Server, read};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

fn stream_of(tokens: usize) -> Value {
    json!({"model": "tiny", "prompt": "a", "stream": true, "max_tokens": tokens, "ignore_eos": true})
}

#[test]
fn bodies_that_are_too_long_slow_or_of_another_type() {
    let server = Server::start("--max_body_bytes 2000 --client_timeout 1");
    let long = format!("{{\"prompt\": \"{}\"}}", "a".repeat(5000));
    let response = server.post_with("/v1/completions", &long, "");
    assert_eq!(
        (
            response.status,
            response.json()["error"]["code"].as_str().unwrap()
        ),
        (413, "request_too_large")
    );
    // Without a length in the head it is found out while reading.
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n",
        server.address
    );
    let chunk = format!("400\r\n{}\r\n", "a".repeat(1024));
    let response = server.raw((head.clone() + &chunk.repeat(4)).as_bytes());
    assert_eq!(response.status, 413, "{response:?}");
    // Half a body.
    let start = Instant::now();
    let response = server.raw((head + "400\r\nabc").as_bytes());
    assert_eq!(response.status, 408, "{response:?}");
    assert_eq!(response.json()["error"]["type"], "timeout_error");
    assert!(start.elapsed() < Duration::from_secs(20));
    // Half a head.
    for part in [
        "",
        "POST /v1/comp",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        let start = Instant::now();
        let response = server.raw(part.as_bytes());
        assert_ne!(response.status, 200);
        assert!(start.elapsed() < Duration::from_secs(20), "{part}");
    }
    let text = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        server.address
    );
    assert_eq!(server.raw(text.as_bytes()).status, 415);
    let other = "GET /v1/models HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n";
    assert_eq!(server.raw(other.as_bytes()).status, 403);
    assert!(
        !server
            .get("/v1/models")
            .head
            .to_lowercase()
            .contains("access-control")
    );
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn keys_are_asked_for_and_told_to_nobody() {
    let server = Server::start_with(
        "--admin_api_key boss-secret",
        &[("APUS_API_KEY", "client-secret")],
    );
    let body = json!({"model": "tiny", "prompt": "a", "max_tokens": 1}).to_string();
    let with = |key: &str| {
        server.post_with(
            "/v1/completions",
            &body,
            &format!("Authorization: Bearer {key}\r\n"),
        )
    };
    assert_eq!(with("client-secret").status, 200);
    assert_eq!(with("boss-secret").status, 200);
    for response in [
        with("client-secre"),
        with("other"),
        server.post_with("/v1/completions", &body, ""),
    ] {
        assert_eq!(response.status, 401);
        assert_eq!(response.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/nothing").status, 401);
    assert_eq!(server.get("/health").status, 200);
    let load = json!({"lora_name": "a", "lora_path": "a"}).to_string();
    let client = server.post_with(
        "/v1/load_lora_adapter",
        &load,
        "Authorization: Bearer client-secret\r\n",
    );
    assert_eq!(client.status, 401);
    let said = server.said();
    assert!(
        !said.contains("client-secret") && !said.contains("boss-secret"),
        "{said}"
    );
}

#[test]
fn an_address_that_others_reach_needs_a_key() {
    let words = |more: &str| format!("deploy --model {MODEL} --port 0 {more}");
    super::common::fails(
        &words("--host 0.0.0.0"),
        1,
        &["which others reach", "--api_key"],
    );
    super::common::fails(&words("--adapters_dir ."), 1, &["--admin_api_key"]);
    super::common::fails(
        &words("--api_key a --admin_api_key a"),
        1,
        &["are the same"],
    );
    super::common::fails(&words("--ssl_keyfile a.pem"), 2, &["HTTPS"]);
}

#[test]
fn further_requests_are_refused_while_many_wait() {
    let server = Server::start("--max_batch_size 1 --max_queue 1");
    let open = |tokens| {
        let mut stream = server.connect();
        let request = server.request("/v1/completions", &stream_of(tokens).to_string(), "");
        stream.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        stream
    };
    let (one, two) = (open(3000), open(3000));
    let third = server.post("/v1/completions", &stream_of(1));
    assert_eq!(third.status, 429, "{third:?}");
    assert_eq!(third.json()["error"]["code"], "rate_limit_exceeded");
    assert!(third.header("retry-after").is_some());
    let many = server.post(
        "/v1/completions",
        &json!({"model": "tiny", "prompt": "a", "n": 3}),
    );
    assert_eq!(many.status, 400, "{many:?}");
    // Clients that leave give their places back.
    drop((one, two));
    server.wait_for("apus_answers_running", 0.0);
    server.wait_for("apus_answers_waiting", 0.0);
    server.wait_for("apus_answers_total{outcome=\"cancelled\"}", 2.0);
    server.wait_for("apus_cache_pages{state=\"used\"}", 0.0);
    assert_eq!(server.post("/v1/completions", &stream_of(1)).status, 200);
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let server = Server::start("--client_timeout 1 --max_batch_size 4");
    let mut slow = server.connect();
    // Each token of this is some kilobytes, so that what the system keeps of a connection is soon full.
    let body = json!({"model": "tiny", "prompt": "a", "stream": true, "max_tokens": 12_000, "ignore_eos": true, "logprobs": 20});
    let request = server.request("/v1/completions", &body.to_string(), "");
    slow.write_all(request.as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(200));
    let quick = server.post(
        "/v1/completions",
        &json!({"model": "tiny", "prompt": "b", "max_tokens": 8}),
    );
    assert_eq!(quick.status, 200);
    server.wait_for("apus_answers_running", 0.0);
    let lost = server.metric("apus_answers_total{outcome=\"cancelled\"}")
        + server.metric("apus_answers_total{outcome=\"failed\"}");
    assert_eq!(lost, 1.0, "the slow one was given up");
    let rest = read(slow);
    assert!(!rest.body.contains("[DONE]"));
}

#[test]
fn a_request_takes_as_long_as_it_may() {
    let server = Server::start("--request_timeout 0.5");
    let mut body = stream_of(12_000);
    let streamed = server.post("/v1/completions", &body);
    assert_eq!(streamed.status, 200);
    let last: Value = serde_json::from_str(streamed.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "timeout");
    body["stream"] = false.into();
    let whole = server.post("/v1/completions", &body);
    assert_eq!(
        (
            whole.status,
            whole.json()["error"]["type"].as_str().unwrap()
        ),
        (504, "timeout_error")
    );
    server.wait_for("apus_answers_running", 0.0);
}
