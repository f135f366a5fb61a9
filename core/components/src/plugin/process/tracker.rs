//! A tracker in a process. Beside `start`, `log` and `finish`, only what it names when it is made is sent.

use super::Remote;
use apus_sdk::{EndState, Error, Level, Result, RunInfo, Setup, Tracker};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

const MORE: [&str; 4] = ["text", "line", "system", "saved"];

struct ProcessTracker {
    remote: Remote,
    facts: Facts,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    takes: Vec<String>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn Tracker>> {
    let facts: Facts = remote.facts()?;
    if let Some(unknown) = facts
        .takes
        .iter()
        .find(|name| !MORE.contains(&name.as_str()))
    {
        return Err(Error::new(format!(
            "{}: a tracker cannot take {unknown:?}; it can take {}",
            remote.what("make"),
            MORE.join(", ")
        )));
    }
    Ok(Box::new(ProcessTracker { remote, facts }))
}

impl ProcessTracker {
    fn tell(&self, method: &str, with: Value) -> Result<()> {
        match self.facts.takes.iter().any(|taken| taken == method) {
            true => self.remote.call(method, with),
            false => Ok(()),
        }
    }
}

impl Tracker for ProcessTracker {
    fn check(&self, setup: &Setup) -> Result<()> {
        self.remote.check(setup)
    }

    fn start(&mut self, run: &RunInfo) -> Result<()> {
        self.remote.call("start", json!({"run": run}))
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        self.remote
            .call("log", json!({"step": step, "values": values}))
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        self.tell("text", json!({"step": step, "name": name, "text": text}))
    }

    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        self.tell("line", json!({"level": level, "line": line}))
    }

    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        self.tell("system", json!({"values": values}))
    }

    fn saved(&mut self, step: u64, checkpoint: &Path) -> Result<()> {
        self.tell("saved", json!({"step": step, "checkpoint": checkpoint}))
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        let end = match end {
            EndState::Finished(summary) => json!({"state": "finished", "summary": summary}),
            EndState::Interrupted => json!({"state": "interrupted"}),
            EndState::Crashed(error) => json!({"state": "crashed", "error": error}),
        };
        self.remote.call("finish", json!({"end": end}))
    }
}
