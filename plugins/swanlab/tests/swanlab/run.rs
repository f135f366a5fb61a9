//! A run from start to end.

use super::*;
use apus_sdk::Level;

fn whole(server: &Server, dir: &Path) {
    let mut tracker = tracker(server, json!({"project": "p"}));
    tracker.start(&info(dir)).unwrap();
    server.wait("the first heartbeat", |w| {
        w.requests.iter().any(|r| r.ends_with("/heartbeat"))
    });
    log(&mut *tracker, 1..=2);
    let odd = object(json!({"loss": null, "eval_loss": 0.5}));
    tracker.log(3, &odd).unwrap();
    tracker.text(3, "Who are you?", "I am a test.").unwrap();
    tracker.image(3, "chart", b"\x89PNG").unwrap();
    tracker
        .line(Level::Info, "\u{1b}[1mstep 1\u{1b}[0m")
        .unwrap();
    tracker.line(Level::Error, "something").unwrap();
    for _ in 0..2 {
        tracker
            .system(&object(json!({"cpu.pct": 3.5, "gpu.0.mem_mib": 100})))
            .unwrap();
    }
    tracker.finish(&finished()).unwrap();
}

#[test]
fn everything_arrives_in_the_right_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    whole(&server, dir.path());
    let e = server.experiment();
    assert_eq!(e.body["name"], "output/v0");
    assert_eq!(e.body["colors"], json!(["#528d59", "#528d59"]));
    assert_eq!(
        e.profile["config"]["lr"],
        json!({"desc": "", "sort": 0, "value": 1e-4})
    );
    assert_eq!(e.profile["metadata"]["runtime"]["command"], "apus sft");
    assert_eq!(steps(&e, "train/loss"), [1, 2, 3]);
    assert_eq!(e.numbers[&("train/loss".to_owned(), 3)], "nan");
    assert_eq!(e.numbers[&("eval/loss".to_owned(), 3)], 0.5);
    assert_eq!(steps(&e, "__swanlab__.gpu.0.mem.value"), [0, 1]);
    assert_eq!(e.columns["__swanlab__.cpu.pct"], "SYSTEM");
    assert_eq!(
        (
            e.columns["Who are you?"].as_str(),
            e.columns["chart"].as_str()
        ),
        ("TEXT", "IMAGE")
    );
    assert_eq!(e.lines[&1], ("INFO".to_owned(), "step 1".to_owned()));
    assert_eq!(e.lines[&2].0, "ERROR");
    let text = &e.media[&("Who are you?".to_owned(), 3)][0];
    assert!(
        text.starts_with("media/text/003-") && text.ends_with(".txt"),
        "{text}"
    );
    assert_eq!(server.world().objects[text], b"I am a test.");
    assert!(e.media[&("chart".to_owned(), 3)][0].ends_with(".png"));
    assert_eq!(e.states, ["FINISHED"]);

    let requests = server.world().requests.clone();
    let begin = [
        "POST /api/login/api_key",
        "GET /api/project/tester/p",
        "POST /api/projects/tester",
        "GET /api/project/tester/p",
        "POST /api/project/tester/p/experiment",
        "POST /api/house/experiments/abcd1234/heartbeat",
        "PUT /api/project/tester/p/runs/abcd1234/profile",
        "PUT /api/project/tester/p/runs/abcd1234/profile",
    ];
    assert_eq!(requests[..begin.len()], begin);
    assert_eq!(
        requests.last().unwrap(),
        "PUT /api/project/tester/p/runs/abcd1234/state"
    );
    let at = |what: &str| requests.iter().position(|r| r.contains(what)).unwrap();
    assert!(at("/series") < at("/house/metrics"));
    assert!(at("/resources/presigned/put") < at("PUT /oss/"));
}

#[test]
fn an_old_server_is_spoken_to_as_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().legacy();
    whole(&server, dir.path());
    let e = server.experiment();
    assert_eq!(e.states, ["FINISHED"]);
    assert_eq!(e.columns["__swanlab__.cpu.pct"], "FLOAT");
    assert_eq!(steps(&e, "train/loss"), [1, 2, 3]);
    let requests = server.world().requests.clone();
    for wanted in ["POST /api/project", "POST /api/experiment/abcd1234/columns"] {
        assert!(
            requests.iter().any(|r| r == wanted),
            "{wanted}: {requests:?}"
        );
    }
}

#[test]
fn the_end_is_told_as_it_was() {
    for (end, state) in [
        (EndState::Crashed("out of memory".to_owned()), "CRASHED"),
        (EndState::Interrupted, "ABORTED"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start();
        let mut tracker = tracker(&server, json!({}));
        tracker.start(&info(dir.path())).unwrap();
        tracker.line(Level::Info, "hello").unwrap();
        tracker.finish(&end).unwrap();
        let e = server.experiment();
        assert_eq!(e.states, [state]);
        assert_eq!(e.project, "ms-swift");
        let (level, words) = &e.lines[&2];
        assert_eq!(level, "ERROR");
        assert!(
            words.contains("memory") || words.contains("interrupted"),
            "{words}"
        );
    }
}

#[test]
fn offline_and_disabled_ask_nobody() {
    let server = Server::start();
    for (mode, files) in [("offline", 1), ("local", 1), ("disabled", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut tracker = tracker(&server, json!({"mode": mode}));
        tracker.start(&info(dir.path())).unwrap();
        log(&mut *tracker, 1..=3);
        tracker.finish(&finished()).unwrap();
        let found = match files {
            0 => dir.path().join("swanlog").exists() as usize,
            _ => folders(dir.path()).len(),
        };
        assert_eq!(found, files, "{mode}");
    }
    assert!(server.world().requests.is_empty());
}

#[test]
fn a_chat_is_told_that_the_run_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let robot = format!("{}/robot", server.url);
    let more =
        json!({"notification_method": "wxwork", "webhook_url": robot, "email_language": "en"});
    let mut tracker = tracker(&server, more);
    tracker.start(&info(dir.path())).unwrap();
    server.wait("the run", |w| w.experiments.len() == 1);
    server.wait("the profile", |w| {
        w.requests.iter().any(|r| r.ends_with("/profile"))
    });
    tracker.finish(&finished()).unwrap();
    let world = server.world();
    let told: Value = serde_json::from_slice(&world.objects["/robot"]).unwrap();
    let text = told["text"]["content"].as_str().unwrap();
    assert!(text.contains("completed successfully"), "{text}");
    assert!(text.contains("/@tester/ms-swift/runs/abcd1234"), "{text}");
}

#[test]
fn the_key_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut tracker = tracker(&server, json!({}));
    let run = RunInfo {
        command: vec!["--swanlab_token".to_owned(), KEY.to_owned()],
        config: object(json!({"swanlab_token": KEY})),
        ..info(dir.path())
    };
    tracker.start(&run).unwrap();
    tracker
        .line(Level::Info, &format!("the key is {KEY}"))
        .unwrap();
    tracker.text(1, "prompt", KEY).unwrap();
    tracker
        .finish(&EndState::Crashed(format!("wrong key {KEY}")))
        .unwrap();
    let run = &folders(dir.path())[0];
    let mut looked = 0;
    for folder in [run.clone(), run.join("debug")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains(KEY), "{}", path.display());
                looked += 1;
            }
        }
    }
    assert_eq!(looked, 3);
    let sent = format!("{:?}", server.experiment());
    assert!(sent.contains("the key is ***") && !sent.contains(KEY));
}
