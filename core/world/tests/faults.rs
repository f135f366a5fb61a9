//! Ranks that stop, pause, take long or lose their launcher: this test's own binary, started again by the launcher.
#![cfg(target_os = "linux")]

mod common;

use apus_world::launch;
use common::{launched, meet_within, program, ranks, scenario, this_rank};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the ranks of `a_launcher` say who they are.
const PIDS: &str = "APUS_TEST_PIDS";

fn stop_this_process() {
    // SAFETY: stops this process, as a signal from outside would.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

/// The body of a rank; started by the other tests.
#[test]
#[ignore = "a rank of the other tests"]
fn a_rank() {
    let place = this_rank();
    let arrival = match scenario().as_str() {
        "saves" => 1,
        _ => 60,
    };
    let control = meet_within(&place, 3, arrival);
    match scenario().as_str() {
        "saves" => {
            if control.rank() == 0 {
                control.enter("saving", true);
                sleep(Duration::from_secs(6));
            }
            control.barrier().unwrap();
        }
        "stops" => {
            control.enter("step 5", false);
            control.barrier().unwrap();
            match control.rank() {
                1 => {
                    // Until the others know what it is at.
                    sleep(Duration::from_millis(1500));
                    stop_this_process();
                }
                // More than a connection holds of what is not read.
                _ => while control.broadcast(vec![0; 64 << 20]).is_ok() {},
            }
            sleep(Duration::from_secs(60));
        }
        "pause" => {
            control.barrier().unwrap();
            let wake = format!("sleep 7; kill -CONT {}", std::process::id());
            let mut waker = Command::new("sh").args(["-c", &wake]).spawn().unwrap();
            stop_this_process();
            waker.wait().unwrap();
            sleep(Duration::from_secs(2));
            control.barrier().unwrap();
        }
        "idles" => {
            let name = format!("{}/{}", std::env::var(PIDS).unwrap(), control.rank());
            std::fs::write(name, std::process::id().to_string()).unwrap();
            sleep(Duration::from_secs(60));
        }
        other => panic!("{other}"),
    }
    eprintln!("DONE");
    control.finish();
}

#[test]
fn what_may_take_long_is_no_fault() {
    // Longer than a rank may be silent or keep the others waiting.
    let (status, outputs, time) = launched("saves", 2);
    assert_eq!(status, 0, "{outputs:?}");
    assert!(time > Duration::from_secs(6));
}

#[test]
fn a_rank_that_stops_ends_all_although_it_takes_no_more_of_what_it_is_sent() {
    let (status, outputs, time) = launched("stops", 3);
    assert_ne!(status, 0);
    assert!(time < Duration::from_secs(25), "{time:?}");
    let says = [
        "FAILED rank 1 (host here",
        "gave no sign of life",
        "it was at step 5",
    ];
    for part in says {
        assert!(outputs[1].contains(part), "{part}: {outputs:?}");
    }
}

#[test]
fn ranks_that_were_stopped_together_go_on_together() {
    let (status, outputs, time) = launched("pause", 3);
    assert_eq!(status, 0, "{outputs:?}");
    assert!(outputs.iter().all(|output| output.contains("DONE")));
    assert!(time > Duration::from_secs(7));
}

/// The body of a launcher; started by the test below.
#[test]
#[ignore = "a launcher of the other test"]
fn a_launcher() {
    let outputs = std::env::var(PIDS).unwrap();
    let program = program("idles", Path::new(&outputs));
    launch::cards(&program, &ranks(2), &AtomicUsize::new(0)).unwrap();
}

#[test]
fn ranks_do_not_outlive_their_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    launcher.args(["--exact", "a_launcher", "--ignored"]);
    launcher.env(PIDS, dir.path()).stdout(Stdio::null());
    let mut launcher = launcher.spawn().unwrap();
    let pid = |rank: usize| -> Option<u32> {
        let text = std::fs::read_to_string(dir.path().join(rank.to_string())).ok()?;
        text.parse().ok()
    };
    let since = Instant::now();
    let pids = loop {
        assert!(since.elapsed() < Duration::from_secs(60));
        if let (Some(zero), Some(one)) = (pid(0), pid(1)) {
            break [zero, one];
        }
        sleep(Duration::from_millis(20));
    };
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let since = Instant::now();
    let lives = |pid: &u32| {
        // A process that nobody has waited for yet has no command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| !line.is_empty())
    };
    while pids.iter().any(lives) {
        assert!(since.elapsed() < Duration::from_secs(5), "{pids:?}");
        sleep(Duration::from_millis(20));
    }
}
