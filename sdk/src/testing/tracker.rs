//! Trackers: a short run.

use super::object;
use crate::{EndState, Level, Result, RunInfo, Tracker};
use serde_json::{Map, Value};
use std::path::Path;

/// A PNG of one black pixel.
pub const DOT: &[u8] = b"\
    \x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x01\
    \x00\x00\x00\x01\x08\x00\x00\x00\x00\x3a\x7e\x9b\x55\x00\x00\x00\x0a\x49\x44\x41\
    \x54\x78\xda\x63\x60\x00\x00\x00\x02\x00\x01\xe5\x27\xde\xfc\x00\x00\x00\x00\x49\
    \x45\x4e\x44\xae\x42\x60\x82";

/// Drives a tracker through a run named `test` in this folder, which exists: the start, the numbers of
/// each step (JSON objects); after the last of them a text, a picture, a line and the machine's numbers; the end.
///
/// # Errors
/// Those of the tracker; numbers that are no JSON object.
pub fn track(tracker: &mut dyn Tracker, dir: &Path, lines: &[(u64, Value)]) -> Result<()> {
    let last = lines.last().map_or(0, |(step, _)| *step);
    tracker.start(&RunInfo {
        name: "test".to_owned(),
        dir: dir.to_owned(),
        max_steps: last,
        ..RunInfo::default()
    })?;
    for (step, values) in lines {
        tracker.log(*step, &object(values.clone(), "values")?)?;
    }
    tracker.text(last, "What is it?", "A test.")?;
    tracker.image(last, "a dot", DOT)?;
    tracker.line(Level::Info, "a line")?;
    tracker.system(&Map::from_iter([("cpu.pct".to_owned(), 12.5.into())]))?;
    let summary = Map::from_iter([("global_step".to_owned(), last.into())]);
    tracker.finish(&EndState::Finished(summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Default)]
    struct Notes(Vec<String>);
    impl Tracker for Notes {
        fn start(&mut self, run: &RunInfo) -> Result<()> {
            self.0.push(format!(
                "{} of {} in {}",
                run.name,
                run.max_steps,
                run.dir.display()
            ));
            Ok(())
        }
        fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
            self.0.push(format!("{step}: {}", values["loss"]));
            Ok(())
        }
        fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
            self.0.push(format!("{step}: {name} {text}"));
            Ok(())
        }
        fn finish(&mut self, end: &EndState) -> Result<()> {
            self.0.push(format!("{end:?}"));
            Ok(())
        }
    }

    #[test]
    fn a_run_from_start_to_end() {
        let mut notes = Notes::default();
        let lines = [(1, json!({"loss": 2.5})), (3, json!({"loss": 1.5}))];
        track(&mut notes, Path::new("here"), &lines).unwrap();
        assert_eq!(notes.0[..3], ["test of 3 in here", "1: 2.5", "3: 1.5"]);
        assert_eq!(notes.0[3], "3: What is it? A test.");
        assert!(notes.0[4].starts_with("Finished("));
        assert!(track(&mut notes, Path::new("here"), &[(1, json!(2.5))]).is_err());
    }
}
