//! The files that a run leaves for people and programs: `logging.jsonl` with ms-swift's keys, one line per log and
//! a summary; `samples.jsonl` with answers to prompts; `system.jsonl` with the machine's numbers; `run.log` with what
//! was said; and `run.json`, which says what the run is and how it stands.

use apus_sdk::{EndState, Error, Level, Result, RunInfo, Tracker, register};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

apus_sdk::options! {
    struct Jsonl {}
    state {
        run: Option<Run>,
    }
}

/// The files of a run that has begun.
struct Run {
    dir: PathBuf,
    about: Map<String, Value>,
    started: Instant,
    logging: File,
    samples: Option<File>,
    system: Option<File>,
    lines: Option<File>,
}

impl Run {
    fn start(run: &RunInfo) -> Result<Self> {
        let about = json!({
            "id": run.id,
            "name": run.name,
            "state": "running",
            "started": run.started,
            "ended": null,
            "error": null,
            "pid": std::process::id(),
            "host": run.hardware.get("hostname"),
            "command": run.command,
            "max_steps": run.max_steps,
            "resumed_at": run.resumed_at,
            "version": run.config.get("apus_version"),
            "hardware": run.hardware,
            "git": run.git,
            "model": run.model,
        });
        let Value::Object(about) = about else {
            return Err(Error::new("run.json is no object"));
        };
        let run = Self {
            logging: append(&run.dir.join("logging.jsonl"))?,
            dir: run.dir.clone(),
            about,
            started: Instant::now(),
            samples: None,
            system: None,
            lines: None,
        };
        run.write_about()?;
        Ok(run)
    }

    /// `run.json` is replaced as a whole, so that whoever reads it finds all of it.
    fn write_about(&self) -> Result<()> {
        let path = self.dir.join("run.json");
        let temporary = self.dir.join(".run.json.tmp");
        let mut text = serde_json::to_string_pretty(&self.about)?;
        text.push('\n');
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| Error::new(format!("{}: {e}", path.display())))
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        let (state, error) = match end {
            EndState::Finished(summary) => {
                write(&mut self.logging, &serde_json::to_string(summary)?)?;
                ("finished", None)
            }
            EndState::Interrupted => ("interrupted", None),
            EndState::Crashed(error) => {
                self.line(Level::Error, error)?;
                ("crashed", Some(error))
            }
        };
        self.about.insert("state".to_owned(), state.into());
        self.about.insert("ended".to_owned(), now().into());
        self.about.insert("error".to_owned(), json!(error));
        self.write_about()
    }

    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        let level = match level {
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let file = opened(&mut self.lines, &self.dir.join("run.log"))?;
        line.lines()
            .try_for_each(|line| write(file, &format!("{} {level} {line}", now())))
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| Error::new(format!("{}: {e}", path.display())))
}

/// The file, opened when it is needed first.
fn opened<'a>(file: &'a mut Option<File>, path: &Path) -> Result<&'a mut File> {
    match file {
        Some(file) => Ok(file),
        None => Ok(file.insert(append(path)?)),
    }
}

/// A line in one call: whoever reads meanwhile finds whole lines.
fn write(file: &mut File, line: &str) -> Result<()> {
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

impl Jsonl {
    fn run(&mut self) -> Result<&mut Run> {
        self.run
            .as_mut()
            .ok_or_else(|| Error::new("log before start"))
    }
}

impl Tracker for Jsonl {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        self.run = Some(Run::start(run)?);
        Ok(())
    }

    fn log(&mut self, _step: u64, values: &Map<String, Value>) -> Result<()> {
        write(&mut self.run()?.logging, &serde_json::to_string(values)?)
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let run = self.run()?;
        let file = opened(&mut run.samples, &run.dir.join("samples.jsonl"))?;
        let sample = json!({"step": step, "prompt": name, "answer": text});
        write(file, &sample.to_string())
    }

    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        self.run()?.line(level, line)
    }

    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        let run = self.run()?;
        let file = opened(&mut run.system, &run.dir.join("system.jsonl"))?;
        let seconds = (run.started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let mut line = Map::from_iter([("time".to_owned(), json!(seconds))]);
        line.extend(values.clone());
        write(file, &serde_json::to_string(&line)?)
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        self.run()?.finish(end)
    }
}

register! {
    /// Writes logging.jsonl with ms-swift's keys, and samples.jsonl, system.jsonl, run.log and run.json beside it.
    Tracker, "jsonl", Jsonl
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing;

    #[test]
    fn a_run_leaves_its_files() {
        let dir = std::env::temp_dir().join(format!("apus-jsonl-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut tracker = testing::make::<dyn Tracker>("jsonl", json!({})).unwrap();
        let logs = [(1, json!({"loss": 2.5})), (2, json!({"loss": f64::NAN}))];
        testing::track(&mut *tracker, &dir, &logs).unwrap();
        tracker
            .finish(&EndState::Crashed("no\ncard".to_owned()))
            .unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(
            read("logging.jsonl"),
            "{\"loss\":2.5}\n{\"loss\":null}\n{\"global_step\":2}\n"
        );
        assert_eq!(
            read("samples.jsonl"),
            "{\"step\":2,\"prompt\":\"What is it?\",\"answer\":\"A test.\"}\n"
        );
        assert!(read("system.jsonl").ends_with(",\"cpu.pct\":12.5}\n"));
        let said: Vec<String> = read("run.log")
            .lines()
            .map(|line| line[20..].to_owned())
            .collect();
        assert_eq!(said, [" INFO a line", " ERROR no", " ERROR card"]);
        let about: Value = serde_json::from_str(&read("run.json")).unwrap();
        assert_eq!(about["state"], "crashed");
        assert_eq!(about["error"], "no\ncard");
        assert_eq!(about["pid"], std::process::id());
        fs::remove_dir_all(&dir).unwrap();
    }
}
