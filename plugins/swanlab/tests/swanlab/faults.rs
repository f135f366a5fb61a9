//! Servers that are away, slow, broken or of another mind.

use super::server::Fault;
use super::*;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A run of twenty steps that is begun before and ended after `act`; everything has to arrive in the end.
#[track_caller]
fn survives(server: &Server, act: impl FnOnce(&Server)) {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut tracker = tracker(server, json!({}));
    tracker.start(&info(dir.path())).unwrap();
    log(&mut *tracker, 1..=10);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "the start takes {:?}",
        began.elapsed()
    );
    act(server);
    let went_on = Instant::now();
    log(&mut *tracker, 11..=20);
    tracker.text(20, "prompt", "answer").unwrap();
    assert!(went_on.elapsed() < Duration::from_secs(1));
    tracker.finish(&finished()).unwrap();
    let e = server.experiment();
    let all: Vec<i64> = (1..=20).collect();
    assert_eq!(steps(&e, "train/loss"), all);
    assert_eq!(steps(&e, "train/learning_rate"), all);
    assert_eq!((e.media.len(), e.states), (1, vec!["FINISHED".to_owned()]));
}

#[test]
fn statuses_that_pass() {
    let faults = [
        ("login", 500),
        ("/experiment", 502),
        ("/series", 429),
        ("/house/metrics", 503),
        ("presigned", 408),
        ("/state", 504),
        ("/profile", 502),
    ];
    std::thread::scope(|scope| {
        for (part, status) in faults {
            scope.spawn(move || {
                let server = Server::start();
                server.fail(part, Fault::Status(status), 1);
                survives(&server, |_| {});
            });
        }
    });
}

#[test]
fn a_connection_that_breaks() {
    let server = Server::start();
    server.fail("GET /api/project", Fault::Cut, 1);
    server.fail("/house/metrics", Fault::Cut, 1);
    survives(&server, |server| {
        server.wait("numbers", |w| {
            w.experiments.values().any(|e| !e.numbers.is_empty())
        });
    });
}

/// The client reads a part and hangs up, so that the server's thread ends and the run goes on.
#[test]
fn an_answer_without_an_end() {
    let server = Server::start();
    for part in ["login", "GET /api/project", "/house/metrics"] {
        server.fail(part, Fault::Endless, 1);
    }
    survives(&server, |_| {});
}

#[test]
fn a_lost_session_is_opened_again() {
    let server = Server::start();
    survives(&server, |server| {
        server.wait("numbers", |w| {
            w.experiments.values().any(|e| !e.numbers.is_empty())
        });
        server.lose_sessions();
    });
    assert_eq!(server.world().logins, 2);
}

#[test]
fn sessions_that_end_soon_are_renewed_in_time() {
    let server = Server::start();
    // 0.2 s, so that half of it passes within the run.
    server.world().session_days = 0.2 / 86_400.0;
    survives(&server, |_| std::thread::sleep(Duration::from_millis(300)));
    assert!(server.world().logins > 1);
}

#[test]
fn a_slow_server_holds_nobody_up() {
    let server = Server::start();
    server.fail("login", Fault::Slow(Duration::from_millis(800)), 1);
    server.fail("/house/metrics", Fault::Slow(Duration::from_millis(800)), 1);
    survives(&server, |_| {});
}

#[test]
fn a_server_that_goes_away_and_comes_back() {
    let server = Server::start();
    survives(&server, |server| {
        server.wait("numbers", |w| {
            w.experiments.values().any(|e| !e.numbers.is_empty())
        });
        server.set_away(true);
        std::thread::sleep(Duration::from_millis(200));
        server.set_away(false);
    });
}

#[test]
fn a_server_that_is_down_at_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    let mut tracker = tracker_at(&format!("http://{address}"), json!({}));
    tracker.start(&info(dir.path())).unwrap();
    log(&mut *tracker, 1..=10);
    let server = Server::at(address);
    tracker.finish(&finished()).unwrap();
    let e = server.experiment();
    assert_eq!(steps(&e, "train/loss"), (1..=10).collect::<Vec<_>>());
    assert_eq!(e.states, ["FINISHED"]);
}

/// What a run does that nobody answers to the end: it goes on, and its file has everything.
#[track_caller]
fn kept(url: &str, more: Value) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let mut tracker = tracker_at(url, more);
    tracker.start(&info(dir.path())).unwrap();
    log(&mut *tracker, 1..=10);
    let ends = Instant::now();
    tracker.finish(&finished()).unwrap();
    let took = ends.elapsed();
    let server = Server::start();
    sync::send_later(&server, &folders(dir.path()));
    assert_eq!(
        steps(&server.experiment(), "train/loss"),
        (1..=10).collect::<Vec<_>>()
    );
    took
}

#[test]
fn nobody_there_to_the_end() {
    let wait = json!({"finish_timeout": 0.3});
    for url in ["http://127.0.0.1:9", "http://no-such-host.invalid"] {
        let took = kept(url, wait.clone());
        assert!(took < Duration::from_secs(2), "{url}: {took:?}");
    }
}

#[test]
fn a_wrong_key_and_a_server_that_is_none() {
    let server = Server::start();
    let took = kept(&server.url, json!({"token": "another-key-entirely!"}));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(server.world().logins, 1, "a wrong key is not tried again");
    server.fail("login", Fault::Status(404), 9);
    kept(&server.url, json!({}));
}

#[test]
fn one_thing_that_is_refused_does_not_cost_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.fail("/house/metrics", Fault::Status(413), 3);
    let mut tracker = tracker(&server, json!({"interval": 0.2}));
    tracker.start(&info(dir.path())).unwrap();
    log(&mut *tracker, 1..=10);
    tracker.finish(&finished()).unwrap();
    let e = server.experiment();
    // Twenty numbers: refused as 20, as 10 and as 5, then taken.
    assert_eq!((e.numbers.len(), e.states.len()), (20, 1));
}

#[test]
fn a_store_that_does_not_answer_does_not_cost_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.fail("PUT /oss", Fault::Status(403), 99);
    let mut tracker = tracker(&server, json!({}));
    tracker.start(&info(dir.path())).unwrap();
    log(&mut *tracker, 1..=10);
    tracker.text(10, "prompt", "answer").unwrap();
    tracker.finish(&finished()).unwrap();
    let e = server.experiment();
    assert_eq!((steps(&e, "train/loss").len(), e.media.len()), (10, 0));
    assert_eq!(e.states, ["FINISHED"]);
}
