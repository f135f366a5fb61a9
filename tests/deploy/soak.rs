//! Many clients at once that leave at random, while an adapter comes and goes: every answer is the one that its request has alone,
//! and nothing is left in the end.

use super::server::{GOLDENS, Server};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
const TOKENS: usize = 24;
const MODELS: [&str; 3] = ["tiny", "stays", "comes"];

/// The prompt with this number: prompts of different lengths, of which some begin alike.
fn prompt(number: usize) -> Vec<u32> {
    let common = (0..(number % 3) * 20).map(|at| 30 + at as u32);
    common
        .chain((0..=number as u32).map(|at| 100 + at * 7 % 500))
        .collect()
}

fn body(number: usize, model: &str) -> Value {
    json!({
        "model": model, "prompt": prompt(number), "temperature": 0, "max_tokens": TOKENS, "ignore_eos": true, "stream": true,
    })
}

/// Reads a stream, up to this many events; `None` if the model is not there or the stream was left.
fn answer(server: &Server, body: &Value, most: usize) -> Option<String> {
    let mut stream = server.connect();
    stream
        .write_all(
            server
                .request("/v1/completions", &body.to_string(), "")
                .as_bytes(),
        )
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let status = lines.next().unwrap_or_default();
    if status.contains(" 404 ") {
        return None;
    }
    assert!(status.contains(" 200 "), "{status}");
    let (mut text, mut events) = (String::new(), 0);
    for line in lines {
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Some(text);
        }
        let chunk: Value =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        assert_eq!(chunk["error"], Value::Null, "{chunk}");
        text += chunk["choices"][0]["text"].as_str().unwrap_or_default();
        events += 1;
        if events == most {
            return None;
        }
    }
    panic!("a stream without an end: {text}\n{}", server.said());
}

fn hold(time: Duration) {
    let root = super::common::folder(&format!("deploy-soak-{}", time.as_secs()));
    std::fs::create_dir_all(root.join("comes")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(
            format!("{GOLDENS}/adapter_grad_attn/{file}"),
            root.join("comes").join(file),
        )
        .unwrap();
    }
    let server = Server::start(&format!(
        "--deterministic true --max_batch_size 16 --verbose false --log_interval -1 --adapters_dir {} --admin_api_key boss \
         --adapters stays={GOLDENS}/adapter_grad_attn_experts",
        root.display()
    ));
    let admin = |path: &str, body: Value| {
        server
            .post_with(path, &body.to_string(), "Authorization: Bearer boss\r\n")
            .status
    };
    let load = || {
        admin(
            "/v1/load_lora_adapter",
            json!({"lora_name": "comes", "lora_path": "comes"}),
        )
    };
    let unload = || admin("/v1/unload_lora_adapter", json!({"lora_name": "comes"}));
    assert_eq!(load(), 200);
    let alone: Vec<Vec<String>> = MODELS
        .iter()
        .map(|model| {
            (0..9)
                .map(|number| answer(&server, &body(number, model), usize::MAX).unwrap())
                .collect()
        })
        .collect();
    assert!(alone[0] != alone[1] && alone[0] != alone[2]);
    server.wait_for("apus_cache_pages{state=\"used\"}", 0.0);

    let is_over = AtomicBool::new(false);
    let (whole, left, missing) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let after_a_while = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, alone, is_over) = (&server, &alone, &is_over);
            let (whole, left, missing) = (&whole, &left, &missing);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(client as u64 + 1);
                while !is_over.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let (model, number) = ((random % 3) as usize, (random / 3 % 9) as usize);
                    let most = match random / 27 % 3 {
                        0 => 1 + (random / 81) as usize % TOKENS,
                        _ => usize::MAX,
                    };
                    match answer(server, &body(number, MODELS[model]), most) {
                        Some(text) => {
                            assert_eq!(text, alone[model][number], "{} {number}", MODELS[model]);
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        None if most == usize::MAX => {
                            assert_eq!(MODELS[model], "comes", "only this one is ever away");
                            missing.fetch_add(1, Ordering::Relaxed);
                        }
                        None => {
                            left.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let start = Instant::now();
        let mut after_a_while = None;
        while start.elapsed() < time {
            assert_eq!(unload(), 200);
            thread::sleep(Duration::from_millis(100));
            assert_eq!(load(), 200);
            thread::sleep(Duration::from_millis(400));
            if start.elapsed() > time / 3 && after_a_while.is_none() {
                after_a_while = Some(server.metric("process_resident_memory_bytes "));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        after_a_while.unwrap_or(f64::MAX)
    });
    server.wait_for("apus_answers_running", 0.0);
    server.wait_for("apus_answers_waiting", 0.0);
    server.wait_for("apus_cache_pages{state=\"used\"}", 0.0);
    let memory = server.metric("process_resident_memory_bytes ");
    let counts = [&whole, &left, &missing].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{} answers whole, {} left, {} of a model that was away; memory {:.0} MiB after a third, {:.0} MiB in the end",
        counts[0],
        counts[1],
        counts[2],
        after_a_while / 1048576.0,
        memory / 1048576.0
    );
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert!(
        memory < after_a_while + 64.0 * 1048576.0,
        "memory grows: {after_a_while} {memory}"
    );
    // Still each as alone.
    for (model, alone) in MODELS.iter().zip(&alone) {
        assert_eq!(
            answer(&server, &body(3, model), usize::MAX).as_ref(),
            Some(&alone[3])
        );
    }
}

#[test]
fn many_clients_get_their_own_answers() {
    hold(Duration::from_secs(10));
}

/// The long form.
#[test]
#[ignore = "takes two minutes: scripts/soak deploy"]
fn soak_many_clients() {
    hold(Duration::from_secs(120));
}
