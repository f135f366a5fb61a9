//! The files that a run leaves for people and programs: `logging.jsonl` with ms-swift's keys, one line per log and
//! a summary; `samples.jsonl` with answers to prompts; `system.jsonl` with the machine's numbers; `run.log` with the
//! lines for people; and `run.json`, which says what the run is and how it stands.
//!
//! A disk that is full for a while does not end them: what could not be written is kept and tried again, with each
//! report and for some seconds at the end.

mod lines;

use apus_sdk::{EndState, Error, Level, Result, RunInfo, Tracker, register};
use chrono::{SecondsFormat, Utc};
use lines::{Kind, Lines};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the end of a run waits for a disk that is full.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two tries while it waits.
const AGAIN: Duration = Duration::from_millis(100);

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
    /// Whether `run.json` is not as it should be.
    about_waits: bool,
    started: Instant,
    logging: Lines,
    samples: Lines,
    system: Lines,
    lines: Lines,
    /// Whether the last try failed, which a warning has told.
    failing: bool,
    /// Whether there may be a progress bar, whose line has to be cleared before a line is written.
    interactive: bool,
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
        let Value::Object(mut about) = about else {
            return Err(Error::new("run.json is no object"));
        };
        if run.world_size > 1 {
            about.insert("world_size".to_owned(), run.world_size.into());
        }
        let file = |name: &str, kind| Lines::new(run.dir.join(name), kind);
        let mut new = Self {
            logging: file("logging.jsonl", Kind::Json),
            samples: file("samples.jsonl", Kind::Json),
            system: file("system.jsonl", Kind::Json),
            lines: file("run.log", Kind::Text),
            dir: run.dir.clone(),
            about,
            about_waits: true,
            started: Instant::now(),
            failing: false,
            interactive: run.interactive,
        };
        // The file exists from the start, empty.
        let made = new.logging.write();
        new.report(made.map_err(|error| (new.logging.path().to_owned(), error.into())));
        new.write();
        Ok(new)
    }

    /// `run.json` is replaced as a whole, so that whoever reads it finds all of it.
    fn write_about(&self) -> Result<()> {
        let path = self.dir.join("run.json");
        let temporary = self.dir.join(".run.json.tmp");
        let mut text = serde_json::to_string_pretty(&self.about)?;
        text.push('\n');
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        // A part of it that was written takes space that may be needed.
        Ok(written.inspect_err(|_| drop(fs::remove_file(&temporary)))?)
    }

    /// Writes the lines that wait, as far as the disk allows, and reports the result.
    fn write(&mut self) {
        let written = self.try_write();
        self.report(written);
    }

    fn try_write(&mut self) -> std::result::Result<(), (PathBuf, Error)> {
        let mut failed = None;
        if self.about_waits {
            match self.write_about() {
                Ok(()) => self.about_waits = false,
                Err(error) => failed = Some((self.dir.join("run.json"), error)),
            }
        }
        for file in self.files() {
            // A file is made with its first line.
            if file.waiting.len() > 0
                && let Err(error) = file.write()
            {
                failed = Some((file.path().to_owned(), error.into()));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn files(&mut self) -> [&mut Lines; 4] {
        [
            &mut self.samples,
            &mut self.system,
            &mut self.lines,
            &mut self.logging,
        ]
    }

    /// Warns when writing begins to fail, and says when it works again.
    fn report(&mut self, written: std::result::Result<(), (PathBuf, Error)>) {
        match (written, self.failing) {
            (Err((path, error)), false) => {
                self.print(&format!(
                    "warning: {}: {error}; what is to be written is kept and tried again",
                    path.display()
                ));
                self.failing = true;
            }
            (Ok(()), true) => {
                let lost: u64 = self.files().map(|file| file.waiting.lost).iter().sum();
                let lost = match lost {
                    0 => "nothing is lost".to_owned(),
                    lost => format!("{lost} lines are lost, which there was no room to keep"),
                };
                let dir = self.dir.display();
                self.print(&format!("note: {dir}: what had to wait is written, {lost}"));
                self.failing = false;
            }
            _ => {}
        }
    }

    /// Writes a line to standard error: `run.log` may be the file that cannot be written.
    fn print(&self, text: &str) {
        let clear = if self.interactive { "\r\u{1b}[2K" } else { "" };
        // A closed terminal is nobody's fault.
        let _ = std::io::stderr().write_all(format!("{clear}{text}\n").as_bytes());
    }

    fn finish(&mut self, end: &EndState, patience: Duration) -> Result<()> {
        let (state, error) = match end {
            EndState::Finished(summary) => {
                self.logging.waiting.push(&serde_json::to_string(summary)?);
                ("finished", None)
            }
            EndState::Interrupted => ("interrupted", None),
            EndState::Crashed(error) => {
                self.line(Level::Error, error);
                ("crashed", Some(error))
            }
        };
        self.about.insert("state".to_owned(), state.into());
        self.about.insert("ended".to_owned(), now().into());
        self.about.insert("error".to_owned(), json!(error));
        self.about_waits = true;
        let until = Instant::now() + patience;
        loop {
            let written = self.try_write();
            match written {
                Err((path, error)) if Instant::now() >= until => {
                    let left: usize = self.files().map(|file| file.waiting.len()).iter().sum();
                    return Err(Error::new(format!(
                        "{}: {error}; {left} lines of its folder are not written",
                        path.display()
                    )));
                }
                Err(failed) => {
                    self.report(Err(failed));
                    std::thread::sleep(AGAIN);
                }
                Ok(()) => {
                    self.report(Ok(()));
                    return Ok(());
                }
            }
        }
    }

    fn line(&mut self, level: Level, line: &str) {
        let level = match level {
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        for line in line.lines() {
            self.lines
                .waiting
                .push(&format!("{} {level} {line}", now()));
        }
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
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
        let run = self.run()?;
        run.logging.waiting.push(&serde_json::to_string(values)?);
        run.write();
        Ok(())
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let run = self.run()?;
        let sample = json!({"step": step, "prompt": name, "answer": text});
        run.samples.waiting.push(&sample.to_string());
        run.write();
        Ok(())
    }

    fn line(&mut self, level: Level, line: &str) -> Result<()> {
        let run = self.run()?;
        run.line(level, line);
        run.write();
        Ok(())
    }

    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        let run = self.run()?;
        let seconds = (run.started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let mut line = Map::from_iter([("time".to_owned(), json!(seconds))]);
        line.extend(values.clone());
        run.system.waiting.push(&serde_json::to_string(&line)?);
        run.write();
        Ok(())
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        self.run()?.finish(end, PATIENCE)
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
