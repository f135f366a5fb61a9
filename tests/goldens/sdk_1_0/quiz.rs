//! What `examples/quiz` is, written with SDK 1.0: without instructions, at the temperature of the run, and with answers that
//! another callback's questions may be among. The share of a step is known when the last of its questions was answered.

use apus_sdk::serde_json::{Map, Value};
use apus_sdk::{Callback, Control, Result, RunInfo, RunState, Tracker};
use std::fs::File;
use std::io::Write;

apus_sdk::options! {
    struct Quiz {
        /// What is asked.
        questions: Vec<String> = Vec::new(),
        /// What a right answer has in it, in the same order.
        answers: Vec<String> = Vec::new(),
    }
    state {
        right: usize,
        answered: usize,
    }
}

apus_sdk::register! {
    /// Asks `questions` after each evaluation and reports the share of right answers as `quiz_correct`.
    Callback, "old_quiz", Quiz
}

impl Callback for Quiz {
    fn on_evaluate(
        &mut self,
        _metrics: &Map<String, Value>,
        _state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        if self.questions.len() != self.answers.len() {
            return Err("as many answers as questions are needed".into());
        }
        (self.right, self.answered) = (0, 0);
        control.generate.extend(self.questions.iter().cloned());
        Ok(())
    }

    fn on_generate(
        &mut self,
        prompt: &str,
        answer: &str,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        let Some(place) = self.questions.iter().position(|one| one == prompt) else {
            return Ok(());
        };
        self.answered += 1;
        self.right += usize::from(answer.contains(&self.answers[place]));
        if self.answered == self.questions.len() {
            println!(
                "step {}: {} of {} are right",
                state.global_step, self.right, self.answered
            );
            let share = self.right as f64 / self.answered as f64;
            control
                .metrics
                .insert("quiz_correct".to_owned(), share.into());
        }
        Ok(())
    }
}
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
    Tracker, "old_page", Page
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
