//! What can be seen of several ranks: the log, the machine's numbers, where ranks print, and a measurement. On the CPU they talk
//! through MPI, so that these tests need the feature `mpi`: `cargo test --features mpi --test ranks_seen`.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use common::training::{TINY, log, said, sft};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// With these ranks, whose temporary files are in a folder of their own.
fn by_ranks(mut command: Command, count: usize, temporary: &Path) -> Command {
    fs::create_dir_all(temporary).unwrap();
    command
        .env("NPROC_PER_NODE", count.to_string())
        .env("RAYON_NUM_THREADS", "1")
        .env("TMPDIR", temporary);
    command
}

/// `apus sft` on the tiny model.
fn run(dir: &Path, count: usize, flags: &str) -> Command {
    let flags = format!("--model {TINY}/model_mxfp4 --per_device_train_batch_size 1 {flags}");
    by_ranks(sft(&dir.join("run"), &flags), count, &dir.join("tmp"))
}

/// Flags for a callback of a plugin library that reports which rank it is on, of how many.
fn asks() -> String {
    let plugin = common::library("asking_plugin");
    let plugin = plugin.display();
    format!(
        "--plugin {plugin} --callbacks asks --callbacks.event on_step_end --callbacks.ranks true"
    )
}

/// `apus bench` on the tiny model.
fn bench(dir: &Path, count: usize, flags: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    let line = format!("bench --model {TINY}/model_mxfp4 --device cpu --steps 3 --batch 2 {flags}");
    command.args(line.split_whitespace());
    by_ranks(command, count, &dir.join("tmp")).output().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What ranks have left in the folder for temporary files.
fn left(dir: &Path) -> Vec<String> {
    let folders = fs::read_dir(dir.join("tmp")).unwrap().flatten();
    let ours = folders.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("apus-ranks-")
    });
    let files = ours.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    let mut texts: Vec<String> = files
        .map(|file| {
            let text = fs::read_to_string(file.path()).unwrap();
            format!("{}: {text}", file.file_name().to_string_lossy())
        })
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_run_of_two_ranks_shows_both() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let flags = format!(
        "--gradient_accumulation_steps 1 --max_steps 100000 --save_steps 100000 {}",
        asks()
    );
    let mut command = run(dir.path(), 2, &flags);
    let machine = measured(&mut command, &run_dir, rustix::process::Signal::TERM);
    for name in ["cpu.pct", "mem.process_mib", "rank.1.process_mib"] {
        assert!(machine[name].as_f64().unwrap() >= 0.0, "{name}: {machine}");
    }
    assert!(machine["rank.1.process_mib"].as_f64() > Some(1.0));

    let about = json(&run_dir.join("run.json"));
    assert_eq!(about["world_size"], 2);
    let ranks = about["hardware"]["ranks"].as_array().unwrap();
    let of = |name: &str| {
        ranks
            .iter()
            .map(|rank| rank[name].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("rank"), [0, 1]);
    assert_eq!(of("host")[0], of("host")[1]);
    assert_ne!(of("pid")[0], of("pid")[1]);

    let lines = log(&run_dir);
    let steps: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("loss").is_some())
        .collect();
    assert!(steps.len() > 2);
    for line in steps {
        let number = |name: &str| {
            line[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{name}: {line}"))
        };
        let (all, each) = (
            number("tokens_per_second"),
            number("tokens_per_second_per_rank"),
        );
        assert!((all / each - 2.0).abs() < 1e-6, "{line}");
        assert_eq!((number("rank"), number("world_size")), (0.0, 2.0));
        let step = number("train_speed(s/it)");
        let waited = number("collectives(s/it)");
        assert!(waited > 0.0 && waited < 100.0 * step, "{line}");
        assert!(number("memory(GiB)") > 0.0);
    }

    // The other rank prints into the folder of the run, and nothing is left elsewhere.
    assert!(run_dir.join("ranks/rank-1.log").is_file());
    assert_eq!(left(dir.path()), [""; 0]);
}

/// Ends a run once it has measured its second rank, and gives what was measured. That is every ten seconds, and the numbers of
/// another rank are those of its own last time.
fn measured(command: &mut Command, run: &Path, signal: rustix::process::Signal) -> Value {
    let quiet = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = quiet.spawn().unwrap();
    let (since, system) = (Instant::now(), run.join("system.jsonl"));
    let line = || -> Option<Value> {
        let text = fs::read_to_string(&system).ok()?;
        let line = text.lines().find(|line| line.contains("\"rank.1."))?;
        serde_json::from_str(line).ok()
    };
    let machine = loop {
        if let Some(machine) = line() {
            break machine;
        }
        assert!(since.elapsed() < Duration::from_secs(120));
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(100));
    };
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(" a rank), "), "{text}");
    machine
}

/// The second rank believes that it is on another host, whose name it has in a namespace of its own.
#[test]
fn the_numbers_of_another_host_bear_its_name() {
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c"]);
        command.arg(format!("hostname node2.lab && exec {program} \"$@\""));
        command.arg("sh");
        command
    };
    if !unshare("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: this user cannot make a namespace with another host name");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = "--gradient_accumulation_steps 1 --max_steps 100000 --save_steps 100000";
    let rank = run(dir.path(), 1, flags);
    let other = unshare(env!("CARGO_BIN_EXE_apus"));
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args([
            "--allow-run-as-root",
            "--quiet",
            "--oversubscribe",
            "-np",
            "1",
        ])
        .arg(rank.get_program())
        .args(rank.get_args())
        .args([":", "-np", "1"])
        .arg(other.get_program())
        .args(other.get_args())
        .args(rank.get_args())
        .env("RAYON_NUM_THREADS", "1");
    let run_dir = dir.path().join("run");
    // mpirun passes this one on, and ends the ranks by itself at others.
    let machine = measured(&mut mpirun, &run_dir, rustix::process::Signal::USR1);
    for name in [
        "cpu.pct",
        "node2.lab/cpu.pct",
        "node2.lab/mem.pct",
        "rank.1.process_mib",
    ] {
        assert!(machine[name].as_f64().is_some(), "{name}: {machine}");
    }
    let about = json(&run_dir.join("run.json"));
    let ranks = &about["hardware"]["ranks"];
    assert_eq!(ranks[0]["host"], about["host"]);
    assert_eq!(ranks[1]["host"], "node2.lab");
    // Ranks of mpirun print where it says.
    assert!(!run_dir.join("ranks").exists());
}

#[test]
fn a_run_of_one_process_looks_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let flags = format!("--max_steps 2 {}", asks());
    let output = run(dir.path(), 1, &flags).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let run_dir = dir.path().join("run");
    for line in log(&run_dir) {
        if line.get("loss").is_some() {
            assert_eq!((&line["rank"], &line["world_size"]), (&0.into(), &1.into()));
        }
        for name in ["tokens_per_second_per_rank", "collectives(s/it)"] {
            assert!(line.get(name).is_none(), "{line}");
        }
    }
    let about = json(&run_dir.join("run.json"));
    assert!(about.get("world_size").is_none() && about["hardware"].get("ranks").is_none());
    assert!(!run_dir.join("ranks").exists());
}

#[test]
fn a_run_that_fails_before_it_has_a_folder_keeps_what_ranks_printed() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "--max_steps 2 --dataset /no/such.jsonl";
    let output = run(dir.path(), 2, flags).output().unwrap();
    assert!(!output.status.success());
    assert!(
        said(&output).contains("/no/such.jsonl"),
        "{}",
        said(&output)
    );
    assert!(!dir.path().join("run/ranks").exists());
    let left = left(dir.path());
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0].starts_with("rank-1.log: ") && left[0].contains("error: rank 0 (host "),
        "{left:?}"
    );
}

#[test]
fn a_measurement_of_two_ranks_tells_what_they_cost() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let (alone, two) = (file("alone.json"), file("two.json"));
    let output = bench(
        dir.path(),
        1,
        &format!("--seq 16:64 --json {}", alone.display()),
    );
    assert!(output.status.success(), "{}", said(&output));
    let flags = format!(
        "--seq 16:64 --json {} --against {}",
        two.display(),
        alone.display()
    );
    let output = bench(dir.path(), 2, &flags);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "2 sequences of 16:64 tokens a step of each rank",
        " a rank), trained ",
        "ranks ",
        "MPI",
        "communication ",
        "not hidden ",
        " on rank ",
        "another setting: ranks not given there, 2 here",
        "tokens/s a rank ",
    ] {
        assert!(text.contains(part), "{part:?} not in: {text}");
    }
    assert_eq!(text.matches("where the time goes").count(), 1, "{text}");

    let (alone, two) = (json(&alone), json(&two));
    assert!(alone.get("ranks").is_none() && alone.get("communication").is_none());
    assert_eq!(two["ranks"], 2);
    let number = |name: &str| two[name].as_f64().unwrap();
    assert!(
        (number("tokens_per_second") / number("tokens_per_second_per_rank") - 2.0).abs() < 1e-9
    );
    assert!(two["fullest_rank"].as_u64().unwrap() < 2);
    let communication = &two["communication"];
    for name in ["seconds", "share", "waiting_seconds", "waiting_share"] {
        assert!(
            communication[name].as_f64().unwrap() > 0.0,
            "{communication}"
        );
    }
    // LoRA's gradients are f32.
    let trained = two["trained_parameters"].as_u64().unwrap();
    assert_eq!(communication["bytes"].as_u64().unwrap(), 4 * trained);
    // Each rank has as many sequences as one process has, and all of their tokens count.
    let tokens = |figures: &Value| -> u64 {
        let steps = figures["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| step["tokens"].as_u64().unwrap())
            .sum()
    };
    assert!(tokens(&two) > tokens(&alone));
    let loss = |figures: &Value| figures["loss"].as_f64().unwrap();
    assert!((loss(&two) - loss(&alone)).abs() < 1.0);

    // With the base spread over the ranks more travels, and the same is computed.
    let spread = file("spread.json");
    let flags = format!("--seq 16:64 --shard_base true --json {}", spread.display());
    let output = bench(dir.path(), 2, &flags);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("base: sharded over 2 ranks"));
    let spread = json(&spread);
    assert!((loss(&spread) - loss(&two)).abs() < 1e-6);
    let bytes = |figures: &Value| figures["communication"]["bytes"].as_u64().unwrap();
    assert!(bytes(&spread) > 10 * bytes(&two), "{spread}");

    // With its optimizer divided, a rank gives its updated weights to the others besides.
    let divided = file("divided.json");
    let flags = format!("--seq 16:64 --deepspeed zero1 --json {}", divided.display());
    let output = bench(dir.path(), 2, &flags);
    assert!(output.status.success(), "{}", said(&output));
    let divided = json(&divided);
    assert!((loss(&divided) - loss(&two)).abs() < 1e-4);
    assert!(bytes(&divided) > bytes(&two), "{divided}");

    let output = bench(dir.path(), 2, "--ops");
    assert!(!output.status.success());
    assert!(said(&output).contains("timed on one card"));
}
