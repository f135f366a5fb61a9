//! One line per log on standard error, as people read it in a terminal or in a job's log.

use apus_sdk::{Result, RunInfo, Tracker, errln, register};
use serde_json::{Map, Value};

apus_sdk::options! {
    struct Console {}
    state {
        interactive: bool,
        // Texts of these steps stand in the summary.
        ends: [u64; 2],
    }
}

/// What a log line shows, in this order, when it is there. The two of ranks are there where several train the run.
const SHOWN: [(&str, &str); 11] = [
    ("loss", "loss"),
    ("eval_loss", "eval_loss"),
    ("token_acc", "acc"),
    ("eval_token_acc", "eval_acc"),
    ("aux_loss", "aux"),
    ("grad_norm", "grad_norm"),
    ("learning_rate", "lr"),
    ("tokens_per_second", "tok/s"),
    ("tokens_per_second_per_rank", "tok/s a rank"),
    ("collectives(s/it)", "collectives(s)"),
    ("remaining_time", "left"),
];

fn line(values: &Map<String, Value>) -> String {
    let mut parts = Vec::new();
    if let Some(step) = values.get("global_step/max_steps").and_then(Value::as_str) {
        parts.push(format!("step {step}"));
    }
    for (key, label) in SHOWN {
        match values.get(key) {
            Some(Value::String(text)) => parts.push(format!("{label} {text}")),
            Some(Value::Number(number)) => {
                parts.push(format!(
                    "{label} {}",
                    short(number.as_f64().unwrap_or(f64::NAN))
                ));
            }
            _ => {}
        }
    }
    parts.join("  ")
}

/// A number in about five characters of precision.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 0.01 => format!("{x:.4}"),
        _ => format!("{x:.3e}"),
    }
}

impl Tracker for Console {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        self.interactive = run.interactive;
        self.ends = [run.resumed_at, run.max_steps];
        Ok(())
    }

    fn log(&mut self, _step: u64, values: &Map<String, Value>) -> Result<()> {
        if !self.interactive || values.contains_key("eval_loss") {
            let line = line(values);
            if !line.is_empty() {
                errln!("{line}");
            }
        }
        Ok(())
    }

    fn on_terminal(&self) -> bool {
        true
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        if !self.ends.contains(&step) {
            errln!("step {step}  {name}\n{text}");
        }
        Ok(())
    }
}

register! {
    /// Prints each log as a line, or leaves that to the progress bar on a terminal.
    Tracker, "console", Console
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people() {
        let values: Map<String, Value> = serde_json::from_str(
            r#"{"loss": 1.23456789, "learning_rate": 0.0001, "grad_norm": 0.0,
                "global_step/max_steps": "5/94", "remaining_time": "1m 3s", "memory(GiB)": 3}"#,
        )
        .unwrap();
        assert_eq!(
            line(&values),
            "step 5/94  loss 1.2346  grad_norm 0  lr 1.000e-4  left 1m 3s"
        );
        let values = r#"{"tokens_per_second": 2000.0, "tokens_per_second_per_rank": 1000.0, "collectives(s/it)": 0.25}"#;
        let values: Map<String, Value> = serde_json::from_str(values).unwrap();
        assert_eq!(
            line(&values),
            "tok/s 2000  tok/s a rank 1000  collectives(s) 0.2500"
        );
    }
}
