//! Training runs of the tiny model, and what they leave.

use candle_core::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The tiny model and its data.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// `apus sft` in this folder, on the tiny model's chats; of a flag that is given twice the last one counts.
pub fn sft(dir: &Path, flags: &str) -> Command {
    let line = format!(
        "--dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu --logging_steps 1 \
         --learning_rate 1e-3 --output_dir {} --add_version false --plot false {flags}",
        dir.display()
    );
    let mut given: Vec<(&str, Vec<&str>)> = Vec::new();
    for word in line.split_whitespace() {
        match (word.starts_with("--"), given.last_mut()) {
            (false, Some((_, values))) => values.push(word),
            _ => {
                given.retain(|(flag, _)| *flag != word);
                given.push((word, Vec::new()));
            }
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command.arg("sft").env_remove("RUST_BACKTRACE");
    for (flag, values) in given {
        command.arg(flag).args(values);
    }
    command
}

/// What a run said to people.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run that has to come to its end; gives what it said.
#[track_caller]
pub fn trains(dir: &Path, flags: &str) -> String {
    let output = sft(dir, flags).output().unwrap();
    assert!(output.status.success(), "{flags}\n{}", said(&output));
    said(&output)
}

/// A run that has to fail before it begins, and to say all of these; gives what it said.
#[track_caller]
pub fn refuses(dir: &Path, flags: &str, says: &[&str]) -> String {
    let output = sft(dir, flags).output().unwrap();
    let said = said(&output);
    let code = output.status.code();
    assert!(matches!(code, Some(1 | 2)), "{code:?} {flags}\n{said}");
    for part in says {
        assert!(said.contains(part), "{flags}\n{part:?} not in:\n{said}");
    }
    said
}

/// The lines of `logging.jsonl`, each of them whole.
#[track_caller]
pub fn log(dir: &Path) -> Vec<Value> {
    let log = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    log.lines().map(line).collect()
}

/// Loss and gradient norm of each step, as often as it was logged.
#[track_caller]
pub fn losses(dir: &Path) -> Vec<(u64, f64, f64)> {
    let log = log(dir);
    let steps = log.iter().filter(|line| line.get("loss").is_some());
    steps
        .map(|line| {
            let step = line["global_step/max_steps"].as_str().unwrap();
            let step = step.split('/').next().unwrap().parse().unwrap();
            let number = |key: &str| line[key].as_f64().unwrap();
            (step, number("loss"), number("grad_norm"))
        })
        .collect()
}

/// The same by step; what was logged more than once has to be the same each time.
#[track_caller]
pub fn by_step(dir: &Path) -> BTreeMap<u64, (f64, f64)> {
    let mut all = BTreeMap::new();
    for (step, loss, norm) in losses(dir) {
        let before = all.insert(step, (loss, norm));
        assert!(
            before.is_none_or(|b| b == (loss, norm)),
            "step {step} was {before:?}, is {loss} {norm}"
        );
    }
    all
}

/// The checkpoints of a run by their steps.
pub fn checkpoints(dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.unwrap().file_name();
            name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

/// Copies a flat folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Numbers that look random: the same for the same seed, which `APUS_SOAK_SEED` changes.
pub struct Random(u64);

impl Random {
    /// A sequence of this seed.
    pub fn new(seed: u64) -> Self {
        let given = std::env::var("APUS_SOAK_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(seed);
        println!("APUS_SOAK_SEED={seed}");
        Self(seed)
    }

    /// A number below `n` (splitmix64).
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// How often a long test repeats: `APUS_SOAK_TIMES`, or this.
pub fn times(usual: u64) -> u64 {
    let given = std::env::var("APUS_SOAK_TIMES")
        .ok()
        .and_then(|times| times.parse().ok());
    given.unwrap_or(usual)
}

/// The weights of an adapter or a model.
#[track_caller]
pub fn weights(checkpoint: &Path) -> Vec<u8> {
    let names = ["adapter_model.safetensors", "model.safetensors"];
    let path: Option<PathBuf> = names
        .map(|name| checkpoint.join(name))
        .into_iter()
        .find(|path| path.is_file());
    fs::read(path.unwrap_or_else(|| panic!("{}: no weights", checkpoint.display()))).unwrap()
}

/// The greatest difference between elements of two tensors of one shape.
pub fn greatest_gap(one: &Tensor, other: &Tensor) -> f32 {
    let gap = (one - other).and_then(|gap| gap.abs()?.flatten_all()?.max(0)?.to_scalar());
    gap.unwrap()
}
