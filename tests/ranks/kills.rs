//! Runs that lose a process go on as if nothing had been: whichever process it is, at whatever moment.

use crate::common::training::{Random, TINY, checkpoints, said, times};
use crate::processes::{Part, all_end, process, send};
use crate::runs::{listen, ranks, same, start, stop, trains, wait_for, wait_for_line};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

const STEPS: u64 = 30;

/// Kinds of run: what of it is on one rank alone, and what is spread over them.
const KINDS: [&str; 4] = [
    "",
    "--deepspeed zero2",
    "--deepspeed zero3 --shard_base true",
    "--streaming true --shuffle_buffer_size 4 --lora_dropout 0.1",
];

fn flags(kind: &str) -> String {
    format!("--gradient_accumulation_steps 2 --max_steps {STEPS} {kind}")
}

/// Kills this part of a run of two ranks some time after its second checkpoint, so that all know of the first, waits until all have ended, and lets the same
/// command go on. Returns what the killed run said, and whether it was killed before its end.
fn kill_and_go_on(
    (kind, reference): (&str, &Path),
    run: &Path,
    part: Part,
    wait: Duration,
) -> (Output, bool) {
    let child = listen(&mut ranks(run, 2, &flags(kind)));
    wait_for(&run.join("checkpoint-2"));
    std::thread::sleep(wait);
    let killed = send(run, part, Signal::KILL);
    let took = all_end(run);
    println!("{kind} {part:?} killed: {killed}, all had ended after {took:?}");
    let output = child.wait_with_output().unwrap();
    // One that was about to end anyway may have ended well.
    let complete = checkpoints(run).contains(&STEPS);
    assert!(!killed || !output.status.success() || complete);
    // The newest checkpoint is whole: its files are checked against their checksums before anything is resumed.
    let resume = format!("{} --resume_from_checkpoint true", flags(kind));
    trains(&mut ranks(run, 2, &resume));
    same(&format!("{part:?} killed"), reference, run);
    (output, killed && !complete)
}

const PARTS: [Part; 4] = [Part::Rank(0), Part::Rank(1), Part::Launcher, Part::Mpirun];

#[test]
fn a_run_that_loses_a_process_ends_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let reference = dir.path().join("reference");
    trains(&mut ranks(&reference, 2, &flags(KINDS[0])));
    for (at, part) in PARTS.into_iter().enumerate() {
        let run = dir.path().join(format!("run-{at}"));
        let of_kind = (KINDS[0], reference.as_path());
        let (output, killed) = kill_and_go_on(of_kind, &run, part, Duration::ZERO);
        let said = said(&output);
        let names = match part {
            Part::Rank(rank) => format!("the connection to rank {rank} (host "),
            Part::Mpirun => "mpirun (process ".to_owned(),
            // It is what the terminal belongs to, and says nothing more.
            Part::Launcher => continue,
        };
        assert!(!killed || said.contains(&names), "{part:?}: {said}");
        if let (Part::Rank(_), true) = (part, killed) {
            assert!(said.contains("The newest checkpoint is "), "{said}");
            let go_on = format!(
                "--resume_from_checkpoint {}",
                run.join("checkpoint-").display()
            );
            assert!(said.contains(&go_on), "{said}");
        }
    }
}

#[test]
#[ignore = "long: scripts/soak"]
fn soak_runs_that_lose_a_process_end_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let references = KINDS.map(|kind| {
        let at = KINDS.iter().position(|other| *other == kind);
        let reference = dir.path().join(format!("reference-{}", at.unwrap()));
        trains(&mut ranks(&reference, 2, &flags(kind)));
        (kind, reference)
    });
    let mut random = Random::new(15);
    let mut before_the_end = 0;
    for round in 0..times(20) {
        let (kind, reference) = &references[round as usize % KINDS.len()];
        let part = PARTS[random.below(PARTS.len() as u64) as usize];
        let wait = Duration::from_millis(random.below(700));
        let run = dir.path().join(format!("run-{round}"));
        let (_, killed) = kill_and_go_on((kind, reference), &run, part, wait);
        before_the_end += u64::from(killed);
        fs::remove_dir_all(&run).unwrap();
    }
    println!(
        "{} kills, {before_the_end} of them before the end",
        times(20)
    );
}

/// A run that trains until it is stopped.
const ENDLESS: &str = "--gradient_accumulation_steps 2 --max_steps 100000 --save_steps 90000";

#[test]
fn a_signal_to_the_launcher_or_to_one_rank_saves_once_and_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    for (at, (part, signal)) in [
        (Part::Launcher, Signal::TERM),
        (Part::Launcher, Signal::INT),
        // As a batch system tells the ranks of one host that it wants it back.
        (Part::Rank(1), Signal::TERM),
        (Part::Rank(0), Signal::TERM),
    ]
    .into_iter()
    .enumerate()
    {
        let run = dir.path().join(format!("run-{at}"));
        let child = listen(&mut ranks(&run, 2, ENDLESS));
        wait_for_line(&run);
        assert!(send(&run, part, signal));
        all_end(&run);
        let output = child.wait_with_output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(130), "{part:?}: {said}");
        assert_eq!(checkpoints(&run).len(), 1, "{part:?}: {said}");
        assert_eq!(said.matches("stopping: ").count(), 1, "{part:?}: {said}");
        assert!(!said.contains("error"), "{part:?}: {said}");
    }
}

/// So many rows that a run takes seconds to prepare them, and a step of thousands of them takes half a minute.
fn many_rows(dir: &Path) -> String {
    let many = dir.join("many.jsonl");
    let rows = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    fs::write(&many, rows.repeat(500)).unwrap();
    format!(
        "--dataset {} --gradient_accumulation_steps 2000 --max_steps 2",
        many.display()
    )
}

#[test]
fn a_signal_before_the_first_step_ends_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let flags = many_rows(dir.path());
    for wait in [400, 800, 1200] {
        let run = dir.path().join(wait.to_string());
        let child = listen(&mut ranks(&run, 2, &flags));
        let since = Instant::now();
        while process(&run, Part::Rank(1)).is_none() {
            assert!(since.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(wait));
        assert!(send(&run, Part::Launcher, Signal::TERM));
        // A run that has come to its first step needs a second one.
        std::thread::sleep(Duration::from_secs(3));
        send(&run, Part::Launcher, Signal::TERM);
        assert!(all_end(&run) < Duration::from_secs(8));
        let output = child.wait_with_output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(130), "{wait} ms: {said}");
        assert!(!said.contains("error"), "{wait} ms: {said}");
        assert!(checkpoints(&run).is_empty());
    }
}

#[test]
fn a_second_signal_ends_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // The first signal alone would take as long as the step.
    let flags = many_rows(dir.path());
    let child = start(&mut ranks(&run, 2, &flags));
    wait_for(&run.join("args.json"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(send(&run, Part::Launcher, Signal::TERM));
    std::thread::sleep(Duration::from_millis(500));
    assert!(process(&run, Part::Rank(0)).is_some());
    let status = stop(child);
    assert_eq!(status, Some(130));
    assert!(all_end(&run) < Duration::from_secs(5));
    assert!(checkpoints(&run).is_empty());
}
