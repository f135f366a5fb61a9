//! The end of a server: running answers are completed, new ones refused.

use super::server::{Server, read};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;

fn long_stream(server: &Server, tokens: usize) -> TcpStream {
    let body = json!({"model": "tiny", "prompt": "a", "stream": true, "max_tokens": tokens, "ignore_eos": true});
    let mut stream = server.connect();
    let request = server.request("/v1/completions", &body.to_string(), "");
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).unwrap();
    stream
}

#[test]
fn sigterm_completes_what_runs() {
    let mut server = Server::start("");
    let stream = long_stream(&server, 400);
    server.signal("TERM");
    let rest = read(stream);
    assert!(
        rest.head.contains("data:") || rest.body.contains("data:"),
        "{rest:?}"
    );
    let all = rest.head + &rest.body;
    assert!(all.contains("[DONE]"), "{all}");
    assert_eq!(server.wait(), Some(0), "{}", server.said());
    assert!(server.said().contains("running answers are completed"));
}

#[test]
fn the_end_waits_for_a_limited_time() {
    let mut server = Server::start("--drain_timeout 0.3");
    let stream = long_stream(&server, 14_000);
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0), "{}", server.said());
    assert!(!read(stream).body.contains("[DONE]"));
}
