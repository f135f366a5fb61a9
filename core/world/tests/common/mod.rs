//! Ranks that are this test's own binary, started again.
#![allow(dead_code)]

use apus_world::control::{Failure, OnFailure};
use apus_world::launch::{self, Program};
use apus_world::place::{self, Children, Place, Role};
use apus_world::rendezvous::{self, Hello};
use apus_world::{Control, Limits};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// This binary as a rank, which is its test `a_rank`. What the rank does travels in an argument that the harness reads as the
/// name of tests to leave out.
pub fn program(scenario: &str, outputs: &Path) -> Program {
    let arguments = [
        "--exact",
        "a_rank",
        "--ignored",
        "--nocapture",
        "--skip",
        scenario,
    ];
    Program {
        file: std::env::current_exe().unwrap(),
        arguments: arguments.map(Into::into).to_vec(),
        outputs: outputs.to_owned(),
    }
}

/// Starts ranks and waits for their end: the status, what each but rank 0 printed, and how long it took.
pub fn launched(scenario: &str, count: usize) -> (i32, Vec<String>, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let status = launch::cards(
        &program(scenario, dir.path()),
        &ranks(count),
        &AtomicUsize::new(0),
    )
    .unwrap();
    let read = |rank| std::fs::read_to_string(launch::output(dir.path(), rank)).unwrap_or_default();
    (status, (1..count).map(read).collect(), began.elapsed())
}

/// What this rank has to do.
pub fn scenario() -> String {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--skip");
    arguments.nth(1).unwrap_or_default()
}

/// This many ranks of one host.
pub fn ranks(count: usize) -> Children {
    Children {
        local: count,
        first: 0,
        size: count,
        master: ("127.0.0.1".to_owned(), None),
    }
}

/// The place of this rank, which prints apart from now on.
pub fn this_rank() -> Place {
    launch::print_apart().unwrap();
    match place::role().unwrap() {
        Role::Rank(place) => place,
        other => panic!("{other:?}: it is started by another test"),
    }
}

/// Meets the other ranks; a rank that another one ends leaves with 7.
pub fn meet(place: &Place, arrival: u64) -> Control {
    meet_within(place, 10, arrival)
}

/// The same with a limit for silence.
pub fn meet_within(place: &Place, silence: u64, arrival: u64) -> Control {
    let hello = Hello {
        version: "1".to_owned(),
        rank: place.rank,
        size: place.size,
        host: "here".to_owned(),
        pid: std::process::id(),
        card: Some(place.local_rank.to_string()),
    };
    let met = rendezvous::meet(place, hello, Duration::from_secs(60)).unwrap();
    let limits = Limits {
        silence: Duration::from_secs(silence),
        arrival: Duration::from_secs(arrival),
    };
    let on_failure: OnFailure = Arc::new(|failure: &Failure| {
        eprintln!("FAILED {}", failure.text);
        std::process::exit(7);
    });
    Control::new(met, place.rank, limits, on_failure).unwrap()
}
