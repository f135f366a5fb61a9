//! A tracker: every number of the run as a line `step,name,value` of a CSV file.

use apus_sdk::serde_json::{Map, Value};
use apus_sdk::{Error, Result, RunInfo, Tracker};
use std::fs::{File, OpenOptions};
use std::io::Write;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Csv {
        /// Name of the file, in the folder of the run.
        file: String = "numbers.csv".to_owned(),
    }
    state {
        open: Option<File>,
    }
}

apus_sdk::register! {
    /// Writes numbers to a CSV file.
    Tracker, "{{component}}", Csv
}

impl Tracker for Csv {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let path = run.dir.join(&self.file);
        // A resumed run goes on with the file that it has.
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        if file.metadata()?.len() == 0 {
            writeln!(file, "step,name,value")?;
        }
        self.open = Some(file);
        Ok(())
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let mut lines = String::new();
        for (name, value) in values {
            if let Value::Number(value) = value {
                lines += &format!("{step},{name},{value}\n");
            }
        }
        let file = self.open.as_mut().ok_or("the run has not begun")?;
        file.write_all(lines.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, track};

    #[test]
    fn numbers_become_lines() {
        let dir = std::env::temp_dir().join(format!("{{crate}}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut tracker = make::<dyn Tracker>("{{component}}", json!({"file": "a.csv"})).unwrap();
        let logs = [
            (1, json!({"loss": 2.5, "remaining_time": "1m"})),
            (2, json!({"loss": 2.0, "eval_loss": 3.0})),
        ];
        track(tracker.as_mut(), &dir, &logs).unwrap();
        let found = std::fs::read_to_string(dir.join("a.csv")).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let lines: Vec<&str> = found.lines().collect();
        let expected = ["1,loss,2.5", "2,loss,2.0", "2,eval_loss,3.0"];
        assert_eq!(lines[0], "step,name,value");
        assert_eq!(lines[1..], expected);
    }
}
