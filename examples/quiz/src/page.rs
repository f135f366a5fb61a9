//! The tracker.

use apus_sdk::serde_json::{Map, Value};
use apus_sdk::{Result, RunInfo, Tracker};
use std::fs::File;
use std::io::Write;

apus_sdk::options! {
    struct Page {
        /// The numbers of a line: a line is written when one of them is reported.
        columns: Vec<String> = vec!["eval_loss".to_owned(), "quiz_correct".to_owned()],
        /// The file, in the run's folder.
        file: String = "numbers.md".to_owned(),
    }
    state {
        open: Option<File>,
    }
}

apus_sdk::register! {
    /// Writes numbers by step to a table in Markdown.
    Tracker, "page", Page
}

impl Tracker for Page {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let path = run.dir.join(&self.file);
        let mut file = File::options().create(true).append(true).open(path)?;
        if run.resumed_at == 0 {
            let rule = "---:|".repeat(self.columns.len() + 1);
            writeln!(
                file,
                "# {}\n\n| step | {} |\n|{rule}",
                run.name,
                self.columns.join(" | ")
            )?;
        }
        self.open = Some(file);
        Ok(())
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let found = self.columns.iter().map(|name| values.get(name));
        let found: Vec<Option<&Value>> = found.collect();
        if found.iter().any(Option::is_some) {
            let cell = |value: &Option<&Value>| value.map(Value::to_string).unwrap_or_default();
            let cells: Vec<String> = found.iter().map(cell).collect();
            let file = self.open.as_mut().ok_or("the run has not begun")?;
            writeln!(file, "| {step} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::track;

    #[test]
    fn lines_with_one_of_the_numbers_are_rows() {
        let dir = tempfile::tempdir().unwrap();
        let logs = [
            (1, json!({"loss": 2.5})),
            (2, json!({"eval_loss": 1.5})),
            (2, json!({"quiz_correct": 0.5, "eval_loss": 1.5})),
        ];
        track(&mut Page::default(), dir.path(), &logs).unwrap();
        let page = std::fs::read_to_string(dir.path().join("numbers.md")).unwrap();
        let expected = "# test\n\n| step | eval_loss | quiz_correct |\n|---:|---:|---:|\n\
            | 2 | 1.5 |  |\n| 2 | 1.5 | 0.5 |\n";
        assert_eq!(page, expected);
    }
}
