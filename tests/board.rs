//! `apus report` and `apus watch` on a run that `apus sft` made.

mod common;

use common::{fails, folder, works};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// A run of three steps on the CPU.
fn trained(dir: &Path) {
    works(&format!(
        "sft --device cpu --max_steps 3 --logging_steps 1 --add_version false --save_strategy no --lora_rank 2 \
         --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl --output_dir {}",
        dir.display()
    ));
}

#[test]
fn a_report_shows_what_was_trained() {
    let root = folder("board_report");
    let run = root.join("runs/a");
    trained(&run);
    let said = works(&format!("report {}", run.display()));
    let file = run.join("report.html");
    assert_eq!(said.trim(), file.display().to_string());
    let page = fs::read_to_string(&file).unwrap();
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(rest.split("</script>").next().unwrap()).unwrap();
    let shown = &data["runs"][0];
    assert_eq!(
        shown["train"]["columns"]["step"],
        serde_json::json!([1, 2, 3])
    );
    assert_eq!(shown["facts"]["state"], "finished");
    assert_eq!(shown["facts"]["args"]["lora_rank"], 2);
    assert_eq!(shown["facts"]["trouble"], serde_json::json!([]));
    let log = fs::read_to_string(run.join("logging.jsonl")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let drawn = shown["train"]["columns"]["loss"][0].as_f64().unwrap();
    assert!((drawn - first["loss"].as_f64().unwrap()).abs() < 1e-5);

    // A folder stands for its runs, and the file goes where it is wanted.
    let out = root.join("all.html");
    let line = format!(
        "report {} --out {}",
        root.join("runs").display(),
        out.display()
    );
    works(&line);
    assert!(
        fs::read_to_string(&out)
            .unwrap()
            .contains("<title>a</title>")
    );
}

#[test]
fn wrong_use_is_said() {
    let root = folder("board_wrong");
    let root = root.display();
    fails(
        &format!("report {root}"),
        1,
        &["holds no run", "logging.jsonl"],
    );
    fails(&format!("report {root}/none"), 1, &["is no folder"]);
    fails(
        &format!("watch {root}/none"),
        1,
        &["is no folder", "--output_dir"],
    );
    fails(&format!("watch {root} --port 70000"), 2, &["70000"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let line = format!("watch {root} --port {port}");
    fails(&line, 1, &["is in use", "give another --port"]);
}

#[cfg(unix)]
#[test]
fn the_page_is_there_until_ctrl_c() {
    let root = folder("board_watch");
    fs::create_dir(root.join("a")).unwrap();
    let line = "{\"loss\": 1.5, \"global_step/max_steps\": \"1/2\"}\n";
    fs::write(root.join("a/logging.jsonl"), line).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(["watch", root.to_str().unwrap(), "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().ends_with(": 1 run"));
    let url = said.next().unwrap().unwrap();
    let place = url.strip_prefix("http://").unwrap();
    let place = place.split_whitespace().next().unwrap();

    let mut stream = TcpStream::connect(place).unwrap();
    write!(
        stream,
        "GET /api/runs HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let listing: Value = serde_json::from_str(body).unwrap();
    assert_eq!(listing["runs"][0]["id"], "a");

    // One connection stays open: it must not hold up the end.
    let _open = TcpStream::connect(place).unwrap();
    let pid = process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(process.wait().unwrap().code(), Some(130));
}
