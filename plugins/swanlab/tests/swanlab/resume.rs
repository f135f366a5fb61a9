//! Runs that go on after a break.

use super::server::Fault;
use super::*;
use apus_sdk::Level;

fn part(server: &Server, info: &RunInfo, steps: std::ops::RangeInclusive<u64>, end: &EndState) {
    let mut tracker = tracker(server, json!({"finish_timeout": 0.5}));
    tracker.start(info).unwrap();
    log(&mut *tracker, steps);
    tracker.line(Level::Info, "a line").unwrap();
    tracker.system(&object(json!({"cpu.pct": 1}))).unwrap();
    tracker.finish(end).unwrap();
}

/// Waits until the sender of a run has left it alone, as the end of its process would have made it.
fn ended(dir: &Path) {
    let run = folders(dir).remove(0);
    let file = std::fs::File::open(run.join("debug/lock")).unwrap();
    file.lock().unwrap();
}

#[test]
fn a_run_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let first = info(dir.path());
    part(&server, &first, 1..=7, &EndState::Interrupted);
    let again = RunInfo {
        resumed_at: 5,
        ..first
    };
    part(&server, &again, 6..=10, &finished());
    let e = server.experiment();
    assert_eq!(steps(&e, "train/loss"), (1..=10).collect::<Vec<_>>());
    assert_eq!(e.states, ["ABORTED", "FINISHED"]);
    // Line, error line of the end, line.
    assert_eq!(e.lines.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(steps(&e, "__swanlab__.cpu.pct"), [0, 1]);
    let asked = server
        .world()
        .requests
        .iter()
        .filter(|r| r.contains("/summaries/"))
        .count();
    assert_eq!(asked, 1);
}

#[test]
fn what_the_first_part_could_not_send_is_sent_first() {
    let home = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| home.path().join(name));
    let server = Server::start();
    server.set_away(true);
    let first = info(&before);
    part(
        &server,
        &first,
        1..=7,
        &EndState::Crashed("lost".to_owned()),
    );
    ended(&before);
    server.set_away(false);
    let checkpoint = before.join("checkpoint-5").display().to_string();
    let again = RunInfo {
        resumed_at: 5,
        config: object(json!({"resume_from_checkpoint": checkpoint})),
        ..info(&after)
    };
    let mut tracker = tracker(&server, json!({}));
    tracker.start(&again).unwrap();
    log(&mut *tracker, 6..=10);
    tracker.finish(&finished()).unwrap();
    let e = server.experiment();
    assert_eq!(steps(&e, "train/loss"), (1..=10).collect::<Vec<_>>());
    assert_eq!(e.states, ["FINISHED"]);
    assert!(e.lines.values().any(|(_, words)| words == "lost"));
    sync::send(&server, &folders(&before)).unwrap();
    assert_eq!(
        server.experiment().states,
        ["FINISHED"],
        "the first part has nothing to say any more"
    );
}

#[test]
fn an_answer_that_was_lost_does_not_make_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut first = tracker(&server, json!({"finish_timeout": 0.3}));
    first.start(&info(dir.path())).unwrap();
    log(&mut *first, 1..=5);
    server.wait("numbers", |w| {
        w.experiments.values().any(|e| e.numbers.len() == 10)
    });
    // What comes now is taken, and nobody learns of it.
    server.fail("/house/metrics", Fault::Lost, 1);
    server.fail("/house/metrics", Fault::Cut, 999);
    log(&mut *first, 6..=7);
    first.finish(&finished()).unwrap();
    server.world().faults.clear();
    sync::send_later(&server, &folders(dir.path()));
    let e = server.experiment();
    assert_eq!(steps(&e, "train/loss"), (1..=7).collect::<Vec<_>>());
    assert_eq!(e.states, ["FINISHED"]);
}
