//! Runs the real trainer in a test of a plugin, on a tiny model of random weights.
//!
//! `apus_sdk::testing` tries a component alone. What it does in a run, with everything else around it, only a run shows:
//!
//! ```rust,ignore
//! // tests/train.rs of a plugin, with apus-testing among its dev-dependencies.
//! #[test]
//! fn it_trains() {
//!     let run = apus_testing::train(&["--loss_type", "my_loss"]).unwrap();
//!     assert!(run.losses().iter().all(|loss| loss.is_finite()));
//! }
//! ```
//!
//! The test stands in the folder `tests` of the plugin: cargo builds the library of a crate before those tests, and not before
//! the tests in `src`. The trainer is the binary that the environment variable `APUS` names, or else one that lies in the target
//! folder of the test, or else `apus` of the `PATH`.

mod find;
mod model;

use serde_json::{Map, Value};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why there was no run, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A run that is over. Its folder is removed with it.
#[derive(Debug)]
pub struct Trained {
    folder: Folder,
    lines: Vec<Map<String, Value>>,
    said: String,
}

/// Trains for three steps, with the library of the crate whose test this is, and `flags` of `apus sft` besides. Unless these say
/// otherwise the model has two layers and random weights, its tokens are bytes, the data are eight short conversations, each step is
/// logged, and nothing is evaluated or saved.
///
/// # Errors
/// There is no `apus` or no library; the run failed, with what it said.
pub fn train(flags: &[&str]) -> Result<Trained, Error> {
    let folder = Folder::new()?;
    let made = model::write_all(&folder.0)?;
    let library = find::library()?;
    let mut command = Command::new(find::apus()?);
    let run = folder.0.join("run");
    command.arg("sft");
    for (flag, value) in [
        ("--model", made.model.as_str()),
        ("--tokenizer", &made.tokenizer),
        ("--dataset", &made.dataset),
        ("--output_dir", &run.display().to_string()),
        ("--plugin", &library.display().to_string()),
        ("--add_version", "false"),
        ("--device", "cpu"),
        ("--current_date", "2025-08-05"),
        ("--max_steps", "3"),
        ("--gradient_accumulation_steps", "1"),
        ("--per_device_train_batch_size", "2"),
        ("--logging_steps", "1"),
        ("--eval_strategy", "no"),
        ("--save_strategy", "no"),
        ("--lora_rank", "4"),
        ("--learning_rate", "1e-2"),
        ("--load_from_cache_file", "false"),
    ] {
        // A flag that is given twice is noted; so is none of these.
        if !flags.contains(&flag) {
            command.args([flag, value]);
        }
    }
    let output = command
        .args(flags)
        .env_remove("APUS_PLUGIN_PATH")
        .env_remove("NPROC_PER_NODE")
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    if !output.status.success() {
        return Err(Error(format!("the run failed, {}:\n{said}", output.status)));
    }
    let file = run.join("logging.jsonl");
    let lines = fs::read_to_string(&file)
        .map_err(|error| Error(format!("{}: {error}; the run said\n{said}", file.display())))?;
    let lines = lines.lines().map(|line| {
        serde_json::from_str(line).map_err(|error| Error(format!("{}: {error}", file.display())))
    });
    Ok(Trained {
        lines: lines.collect::<Result<_, _>>()?,
        folder,
        said,
    })
}

impl Trained {
    /// The lines of logging.jsonl, one a step and a summary.
    pub fn lines(&self) -> &[Map<String, Value>] {
        &self.lines
    }

    /// A number of the log, by step: those lines that have it.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let numbers = self
            .lines
            .iter()
            .filter_map(|line| line.get(name)?.as_f64());
        numbers.collect()
    }

    /// The loss of each step.
    pub fn losses(&self) -> Vec<f64> {
        self.numbers("loss")
    }

    /// The folder of the run, with what it wrote.
    pub fn folder(&self) -> PathBuf {
        self.folder.0.join("run")
    }

    /// What the run printed.
    pub fn said(&self) -> &str {
        &self.said
    }
}

/// A folder of its own, removed when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("apus-testing-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a file in a folder.
fn write(folder: &Path, name: &str, text: &str) -> Result<String, Error> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}
