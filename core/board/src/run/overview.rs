//! The overview of a run for a list. Only the ends of its logs are read.

use super::find::FoundRun;
use super::folder::{FileFacts, Folder};
use super::log::Log;
use super::state::{Evidence, judge};
use super::{FILES, State, facts_of, name, since};
use serde::Serialize;
use serde_json::Value;
use std::io::{Read, Seek, SeekFrom};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many bytes at the end of a log are read.
const TAIL: u64 = 32 << 10;

/// Time and length of each of a run's files. A run is read again when they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamps([Option<FileFacts>; FILES.len()]);

impl FileStamps {
    /// Reads those of the files in a run's folder.
    pub fn of(folder: &Folder) -> Self {
        Self(FILES.map(|name| folder.facts(name)))
    }

    /// The time of the latest change.
    pub fn latest(&self) -> Option<SystemTime> {
        self.0.iter().flatten().map(|facts| facts.changed).max()
    }
}

/// What a list shows of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunOverview {
    /// Path of its folder.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub why: Option<String>,
    /// When it began: RFC 3339 where the run says it.
    pub started: Option<String>,
    /// The last change, in seconds since 1970.
    pub changed: u64,
    /// The last step.
    pub step: u64,
    /// Steps of the whole run.
    pub max_steps: Option<u64>,
    /// The step of the checkpoint from which it went on.
    pub resumed_at: Option<u64>,
    /// Time left, as the run wrote it.
    pub remaining: Option<String>,
    /// The last training loss.
    pub loss: Option<f64>,
    /// The last evaluation loss.
    pub eval_loss: Option<f64>,
}

impl RunOverview {
    /// Reads the overview of a run.
    pub fn at(found: &FoundRun, folder: &Folder, stamp: &FileStamps) -> Self {
        let info = facts_of(folder, "run.json").unwrap_or_default();
        let log = tail(folder, "logging.jsonl");
        let number = |name: &str| info.get(name).and_then(Value::as_u64);
        let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
        let evidence = Evidence {
            summary: log.summary.is_some(),
            quiet: since(stamp.latest()),
            ticks: folder.facts("system.jsonl").is_some(),
        };
        let (state, why) = judge(&info, evidence);
        let changed = stamp
            .latest()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Self {
            id: found.id.clone(),
            name: name(&info, &found.place.path()),
            state,
            why,
            started: text("started"),
            changed: changed.unwrap_or_default().as_secs(),
            step: log.step,
            max_steps: log.max_steps.or(number("max_steps")),
            resumed_at: number("resumed_at").filter(|&step| step > 0),
            remaining: log.remaining.clone().filter(|_| state == State::Running),
            loss: log.train.last("loss"),
            eval_loss: log.eval.last("eval_loss"),
        }
    }
}

/// Reads the last lines of a log.
fn tail(folder: &Folder, name: &str) -> Log {
    let mut log = Log::default();
    let Ok(Some((mut file, facts))) = folder.file(name) else {
        return log;
    };
    let begin = facts.len.saturating_sub(TAIL);
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(begin))
        .and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    if read.is_err() {
        return log;
    }
    let text = String::from_utf8_lossy(&bytes);
    for line in text.lines().skip(usize::from(begin > 0)) {
        log.take(line);
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_end_of_a_long_log_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for step in 1..=5_000 {
            text += &format!(
                "{{\"loss\": {}, \"global_step/max_steps\": \"{step}/6000\", \"remaining_time\": \"9s\"}}\n",
                6_000 - step
            );
        }
        fs::write(dir.path().join("logging.jsonl"), &text).unwrap();
        let found = FoundRun {
            id: "a".to_owned(),
            place: dir.path().into(),
        };
        let folder = found.place.open().unwrap();
        let overview = RunOverview::at(&found, &folder, &FileStamps::of(&folder));
        assert_eq!((overview.step, overview.max_steps), (5_000, Some(6_000)));
        assert_eq!(overview.loss, Some(1_000.0));
        assert_eq!(overview.state, State::Running);
        assert_eq!(overview.remaining.as_deref(), Some("9s"));
        let before = FileStamps::of(&folder);
        fs::write(dir.path().join("logging.jsonl"), text + "\n").unwrap();
        assert_ne!(before, FileStamps::of(&folder));
    }
}
