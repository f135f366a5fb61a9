//! Reads a run's folder repeatedly while the run writes into it.
//!
//! Every file may be missing (a run of an older version), be cut in the middle of a line (a killed run), or grow
//! between two readings. None of that is an error.

mod find;
mod folder;
mod lines;
mod log;
mod metrics;
mod overview;
mod sample;
mod state;
mod table;
mod view;

pub use find::{FoundRun, find};
pub use folder::{Folder, FolderPath};
pub use log::Log;
pub use metrics::Metrics;
pub use overview::{FileStamps, RunOverview};
pub use sample::Sample;
pub use state::State;
pub use table::Table;
pub use view::{Cursor, View};

use lines::Lines;
use log::object;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The greatest size of `run.json` or `args.json`. A run writes no larger ones.
const MOST_FACTS: u64 = 16 << 20;
/// How long one refresh may read. The next one reads the rest of a long log.
const READING: Duration = Duration::from_millis(500);

/// The files of a run that are read.
pub(crate) const FILES: [&str; 6] = [
    "run.json",
    "args.json",
    "logging.jsonl",
    "system.jsonl",
    "samples.jsonl",
    "run.log",
];

/// A run.
#[derive(Debug)]
pub struct Run {
    /// Its identifier among all runs.
    pub id: String,
    /// Its folder.
    place: FolderPath,
    /// The path of its folder, for display.
    pub dir: PathBuf,
    /// `run.json`.
    pub info: Map<String, Value>,
    /// `args.json`.
    pub args: Map<String, Value>,
    /// `logging.jsonl`.
    pub log: Log,
    /// `system.jsonl`.
    pub metrics: Metrics,
    /// `samples.jsonl`.
    pub samples: Vec<Sample>,
    /// The steps of the existing checkpoints.
    pub checkpoints: Vec<u64>,
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub why: Option<String>,
    last_change: Option<SystemTime>,
    /// How far `logging.jsonl`, `system.jsonl` and `samples.jsonl` are read.
    read: [Lines; 3],
}

impl Run {
    /// Reads all of a run's folder.
    pub fn open(id: impl Into<String>, place: impl Into<FolderPath>) -> Self {
        let mut run = Self::new(id, place);
        run.read(None);
        run
    }

    /// A run whose files are not read yet.
    pub fn new(id: impl Into<String>, place: impl Into<FolderPath>) -> Self {
        let place = place.into();
        Self {
            id: id.into(),
            dir: place.path(),
            place,
            info: Map::new(),
            args: Map::new(),
            log: Log::default(),
            metrics: Metrics::default(),
            samples: Vec::new(),
            checkpoints: Vec::new(),
            state: State::Running,
            why: None,
            last_change: None,
            read: Default::default(),
        }
    }

    /// Reads what is new, for at most half a second.
    pub fn refresh(&mut self) {
        self.read(Some(Instant::now() + READING));
    }

    fn read(&mut self, until: Option<Instant>) {
        let Ok(folder) = self.place.open() else {
            return;
        };
        // One that is being written at this moment is read the next time.
        if let Some(info) = facts_of(&folder, "run.json") {
            self.info = info;
        }
        if let Some(args) = facts_of(&folder, "args.json") {
            self.args = args;
        }
        let [logging, metrics, samples] = &mut self.read;
        let at = |name| (&folder, name);
        logging.read(at("logging.jsonl"), until, &mut self.log, Log::take);
        metrics.read(at("system.jsonl"), until, &mut self.metrics, Metrics::take);
        samples.read(at("samples.jsonl"), until, &mut self.samples, sample::take);
        self.last_change = FileStamps::of(&folder).latest();
        self.checkpoints = find::checkpoints(&folder);
        let evidence = state::Evidence {
            summary: self.log.summary.is_some(),
            quiet: self.quiet(),
            ticks: self.metrics.table.rows() > 0,
        };
        (self.state, self.why) = state::judge(&self.info, evidence);
    }

    /// Whether files contain more than was read so far.
    fn is_unread(&self) -> bool {
        self.read.iter().any(|lines| lines.unread)
    }

    /// How long none of its files has changed.
    fn quiet(&self) -> Duration {
        since(self.last_change)
    }

    /// A number that changes whenever rows that were read before are no longer valid.
    fn generation(&self) -> String {
        let [logging, metrics, samples] = &self.read;
        let taken_back = self.log.taken_back;
        format!(
            "{:x}-{:x}-{:x}-{taken_back}",
            logging.file, metrics.file, samples.file
        )
    }

    /// Steps of the whole run.
    pub fn max_steps(&self) -> Option<u64> {
        let said = || self.info.get("max_steps").and_then(Value::as_u64);
        self.log.max_steps.or_else(said)
    }

    /// The name for display: the run's own name, or that of its folder.
    pub fn name(&self) -> String {
        name(&self.info, &self.dir)
    }

    /// Messages about files that could not be read.
    pub fn trouble(&self) -> Vec<String> {
        let files = ["logging.jsonl", "system.jsonl", "samples.jsonl"];
        let mut all = Vec::new();
        for (name, lines) in files.iter().zip(&self.read) {
            if lines.bad > 0 {
                let many = if lines.bad == 1 { "line" } else { "lines" };
                all.push(format!(
                    "{name}: {} {many} could not be read and were left out",
                    lines.bad
                ));
            }
            all.extend(lines.trouble.iter().map(|why| format!("{name}: {why}")));
        }
        all
    }
}

/// How long ago a time was; zero if it lies in the future, because clocks differ.
fn since(time: Option<SystemTime>) -> Duration {
    time.and_then(|time| time.elapsed().ok())
        .unwrap_or_default()
}

fn name(info: &Map<String, Value>, dir: &Path) -> String {
    // `.` has no name of its own.
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let last = whole.file_name().map(|name| name.to_string_lossy());
    let given = info.get("name").and_then(Value::as_str);
    // A run that was given no name is called by the path of its folder.
    let given = given.filter(|name| {
        let path_of_folder = Path::new(name)
            .file_name()
            .map(|name| name.to_string_lossy())
            == last;
        !name.trim().is_empty() && !path_of_folder
    });
    match (given, last) {
        (Some(name), _) => name.to_owned(),
        (None, Some(last)) => last.into_owned(),
        (None, None) => whole.display().to_string(),
    }
}

/// Reads a file that contains one JSON object.
fn facts_of(folder: &Folder, name: &str) -> Option<Map<String, Value>> {
    let (file, _) = folder.file(name).ok()??;
    let mut text = String::new();
    file.take(MOST_FACTS).read_to_string(&mut text).ok()?;
    object(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_is_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("v0-run");
        fs::create_dir(&folder).unwrap();
        let name = |given: &str| {
            let info = serde_json::json!({"name": given});
            name(info.as_object().unwrap(), &folder)
        };
        assert_eq!(name("output/v0-run"), "v0-run");
        assert_eq!(name(" "), "v0-run");
        assert_eq!(name("cats/first"), "cats/first");
    }

    #[test]
    fn an_empty_folder_is_a_run_that_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::open("x", dir.path());
        assert_eq!(run.log.train.rows(), 0);
        assert!(run.trouble().is_empty());
        assert!(!run.name().is_empty());
    }

    #[test]
    fn a_run_grows() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("args.json", r#"{"lora_rank": 8}"#);
        write(
            "logging.jsonl",
            "{\"loss\": 2, \"global_step/max_steps\": \"1/9\"}\nwhat\n{\"lo",
        );
        write(
            "samples.jsonl",
            "{\"step\": 1, \"prompt\": \"p\", \"answer\": \"a\"}\n{\"step\": 2}\n",
        );
        write(
            "system.jsonl",
            "{\"time\": 1.5, \"cpu.pct\": 20, \"gpu.0.pct\": null}\n",
        );
        let mut run = Run::open("x", dir.path());
        assert_eq!(run.args["lora_rank"], 8);
        assert_eq!((run.log.train.rows(), run.samples.len()), (1, 1));
        assert_eq!(
            run.metrics.table.names().collect::<Vec<_>>(),
            ["time", "cpu.pct"]
        );
        let trouble = run.trouble();
        assert_eq!(trouble.len(), 2, "{trouble:?}");
        write("run.json", r#"{"name": "mine", "state": "finished"}"#);
        run.refresh();
        assert_eq!((run.name().as_str(), run.state), ("mine", State::Finished));
        write("run.json", "{\"name\": \"cut");
        run.refresh();
        assert_eq!(
            run.name(),
            "mine",
            "a file that is being written changes nothing"
        );
    }
}
