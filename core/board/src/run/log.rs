//! `logging.jsonl`: lines of training, lines of evaluation, a summary.

use super::table::Table;
use serde_json::{Map, Value};

/// The contents of the lines.
#[derive(Debug, Default)]
pub struct Log {
    /// A row for each line of training; `step` and `time` (seconds) beside what was logged.
    pub train: Table,
    /// A row for each evaluation, likewise.
    pub eval: Table,
    /// The last line, which only a finished run writes.
    pub summary: Option<Map<String, Value>>,
    /// The last step that was logged.
    pub step: u64,
    /// Steps of the whole run.
    pub max_steps: Option<u64>,
    /// Time left, as the run wrote it.
    pub remaining: Option<String>,
    /// How often rows were removed because the run resumed from an earlier step and continued in the same file.
    pub taken_back: u64,
    /// Added to times, so that they keep growing when a resumed run continues in the same file.
    before: f64,
    first_step: u64,
}

impl Log {
    /// Adds a line. Returns false if it is not a line of a log.
    pub fn take(&mut self, line: &str) -> bool {
        let Some(values) = object(line) else {
            return false;
        };
        if values.contains_key("train_runtime") {
            self.step = number(&values, "global_step").map_or(self.step, |step| step as u64);
            self.summary = Some(values);
            return true;
        }
        self.summary = None;
        self.progress(&values);
        let is_eval = values.keys().any(|name| name.starts_with("eval_"));
        let table = if is_eval { &self.eval } else { &self.train };
        let later = |name: &str, value: f64| table.last(name).is_some_and(|last| last > value);
        if later("step", self.step as f64) {
            self.take_back();
        }
        let time = self.seconds(&values);
        let mut row = vec![("step", self.step as f64)];
        if let Some(time) = time {
            let last = |table: &Table| table.last("time").unwrap_or(0.0);
            // Whole seconds beside exact ones may differ by one.
            let latest = last(&self.train).max(last(&self.eval));
            if time + self.before + 1.0 < latest {
                self.before = latest;
            }
            row.push(("time", time + self.before));
        }
        let plain = |name: &str| !matches!(name, "step" | "time" | "global_step");
        row.extend(values.iter().filter_map(|(name, value)| {
            let value = value.as_f64().or(value.is_null().then_some(f64::NAN))?;
            plain(name).then_some((name.as_str(), value))
        }));
        match is_eval {
            true => self.eval.push(row),
            false => self.train.push(row),
        }
        true
    }

    fn progress(&mut self, values: &Map<String, Value>) {
        let both = values.get("global_step/max_steps").and_then(Value::as_str);
        let parts = both.and_then(|both| both.split_once('/'));
        let parts = parts.map(|(step, total)| (step.trim().parse(), total.trim().parse()));
        if let Some((Ok(step), Ok(total))) = parts {
            self.step = step;
            self.max_steps = Some(total);
        } else if let Some(step) = number(values, "global_step").or(number(values, "step")) {
            self.step = step.max(0.0) as u64;
        } else if !values.keys().any(|name| name.starts_with("eval_")) {
            self.step += 1;
        }
        let left = values.get("remaining_time").and_then(Value::as_str);
        self.remaining = left.map(str::to_owned);
    }

    /// Seconds since the start. `elapsed_time` is whole seconds; where `train_speed(s/it)` agrees with it, that is
    /// the same time without the rounding.
    fn seconds(&mut self, values: &Map<String, Value>) -> Option<f64> {
        let whole = match values.get("elapsed_time")? {
            Value::String(text) => seconds(text)?,
            other => return other.as_f64(),
        };
        let speed = number(values, "train_speed(s/it)").unwrap_or(f64::NAN);
        if self.train.rows() == 0 && speed > 0.0 {
            // A resumed run counts the steps that it made itself.
            let made = (whole / speed).round().min(self.step as f64);
            let fresh = (self.step as f64 * speed - whole).abs() <= 1.0 + self.step as f64 * 1e-6;
            self.first_step = if fresh { 0 } else { self.step - made as u64 };
        }
        let exact = speed * (self.step - self.first_step.min(self.step)) as f64;
        Some(match (exact - whole).abs() <= 1.0 + whole * 1e-4 {
            true => exact,
            false => whole,
        })
    }

    /// Removes the rows after a step from both tables.
    fn take_back(&mut self) {
        for table in [&mut self.train, &mut self.eval] {
            let steps = table.get("step").unwrap_or_default();
            let kept = steps.partition_point(|&step| step < self.step as f64);
            table.truncate(kept);
        }
        self.taken_back += 1;
    }
}

/// Parses a line as an object. Python writes `NaN` and `Infinity`, which are not JSON; they are read as null.
pub fn object(line: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(line).ok().or_else(|| {
        let mut plain = line.to_owned();
        for name in ["-Infinity", "Infinity", "NaN"] {
            plain = plain.replace(&format!(": {name}"), ": null");
        }
        (plain != line).then(|| serde_json::from_str(&plain).ok())?
    })
}

fn number(values: &Map<String, Value>, name: &str) -> Option<f64> {
    values.get(name)?.as_f64()
}

/// Seconds of `1d 2h 3m 4s`.
fn seconds(text: &str) -> Option<f64> {
    let mut sum = 0.0;
    for part in text.split_whitespace() {
        let count: f64 = part.get(..part.len() - 1)?.parse().ok()?;
        sum += count
            * match part.as_bytes().last()? {
                b'd' => 86_400.0,
                b'h' => 3_600.0,
                b'm' => 60.0,
                b's' => 1.0,
                _ => return None,
            };
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Log {
        let mut log = Log::default();
        for line in lines {
            assert!(log.take(line), "{line}");
        }
        log
    }

    #[test]
    fn lines_of_each_kind() {
        let log = log(&[
            r#"{"loss": 2.5, "epoch": 0.1, "global_step/max_steps": "5/20", "elapsed_time": "1m 3s", "train_speed(s/it)": 12.65}"#,
            r#"{"eval_loss": 2.0, "global_step/max_steps": "5/20", "elapsed_time": "1m 5s"}"#,
            r#"{"loss": null, "global_step/max_steps": "10/20", "elapsed_time": "2m 6s", "remaining_time": "2m 6s"}"#,
        ]);
        assert_eq!((log.train.rows(), log.eval.rows()), (2, 1));
        assert_eq!((log.step, log.max_steps), (10, Some(20)));
        assert_eq!(log.train.get("time"), Some(&[63.25, 126.0][..]));
        assert_eq!(log.eval.get("step"), Some(&[5.0][..]));
        assert_eq!(log.remaining.as_deref(), Some("2m 6s"));
        assert!(log.summary.is_none());
    }

    #[test]
    fn times_of_a_resumed_run() {
        let log = log(&[
            r#"{"loss": 1, "global_step/max_steps": "105/200", "elapsed_time": "10s", "train_speed(s/it)": 2.1}"#,
            r#"{"loss": 1, "global_step/max_steps": "110/200", "elapsed_time": "20s", "train_speed(s/it)": 2.05}"#,
        ]);
        assert_eq!(log.train.get("time"), Some(&[10.5, 20.5][..]));
    }

    #[test]
    fn a_summary_ends_a_run_until_it_goes_on() {
        let mut log = log(&[
            r#"{"loss": 1, "global_step/max_steps": "1/2"}"#,
            r#"{"train_runtime": 3.5, "global_step": 2, "train_loss": 1}"#,
        ]);
        assert_eq!(log.step, 2);
        assert!(log.summary.is_some());
        assert!(log.take(r#"{"loss": 1, "global_step/max_steps": "3/4"}"#));
        assert!(log.summary.is_none());
    }

    #[test]
    fn a_run_that_goes_on_from_an_earlier_step_takes_back_the_later_ones() {
        let line = |step, loss, time| {
            format!(
                r#"{{"loss": {loss}, "global_step/max_steps": "{step}/9", "elapsed_time": "{time}s"}}"#
            )
        };
        let mut log = Log::default();
        for (step, loss, time) in [(1, 5, 10), (2, 4, 20), (3, 3, 30), (2, 7, 10), (3, 6, 20)] {
            assert!(log.take(&line(step, loss, time)));
        }
        assert_eq!(log.train.get("step"), Some(&[1.0, 2.0, 3.0][..]));
        assert_eq!(log.train.get("loss"), Some(&[5.0, 7.0, 6.0][..]));
        assert_eq!(log.taken_back, 1);
        let times = log.train.get("time").unwrap();
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn what_python_writes_for_no_number_is_read() {
        let log = log(&[r#"{"loss": NaN, "grad_norm": Infinity, "token_acc": 0.5}"#]);
        assert_eq!(log.train.last("loss"), None);
        assert_eq!(log.train.last("token_acc"), Some(0.5));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let mut log = Log::default();
        for line in ["[1]", "{\"loss\": 1", "loss 1", "\"x\"", "{\"a\": NaN"] {
            assert!(!log.take(line), "{line}");
        }
        assert_eq!(log.train.rows(), 0);
        assert!(log.take(r#"{"elapsed_time": "é", "global_step/max_steps": "x/y"}"#));
        assert!(
            log.take(r#"{"elapsed_time": "", "global_step/max_steps": "99999999999999999999/1"}"#)
        );
    }
}
