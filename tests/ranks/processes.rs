//! The processes of a run, found by the folder in their command lines.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a process of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Launcher,
    Mpirun,
    Rank(usize),
}

/// The processes of the run in this folder that live; one that has ended and was not waited for has no command line.
pub fn processes(run: &Path) -> Vec<(i32, Part)> {
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, part(pid, run)?)))
        .collect()
}

fn part(pid: i32, run: &Path) -> Option<Part> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    if !words.contains(&run.as_os_str().as_encoded_bytes()) {
        return None;
    }
    if words[0].ends_with(b"mpirun") {
        return Some(Part::Mpirun);
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let rank = environment
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(b"OMPI_COMM_WORLD_RANK="));
    match rank {
        Some(rank) => Some(Part::Rank(std::str::from_utf8(rank).ok()?.parse().ok()?)),
        None => Some(Part::Launcher),
    }
}

/// The process that is this part of a run.
pub fn process(run: &Path, wanted: Part) -> Option<Pid> {
    let mut all = processes(run).into_iter();
    let (pid, _) = all.find(|(_, part)| *part == wanted)?;
    Pid::from_raw(pid)
}

/// Sends a signal to a part of a run; whether it was there.
pub fn send(run: &Path, to: Part, signal: Signal) -> bool {
    process(run, to).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Waits until nothing of the run is left, for at most half a minute, and returns how long that took.
#[track_caller]
pub fn all_end(run: &Path) -> Duration {
    let since = Instant::now();
    loop {
        let left = processes(run);
        if left.is_empty() {
            return since.elapsed();
        }
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "half a minute later there are still {left:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
