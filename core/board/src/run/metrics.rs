//! `system.jsonl`: the load of the machine.

use super::log::object;
use super::table::Table;
use serde_json::Value;

/// The contents of the lines.
#[derive(Debug, Default)]
pub struct Metrics {
    /// A row for each line, with `time` in seconds since the start.
    pub table: Table,
    before: f64,
}

impl Metrics {
    /// Adds a line. Returns false if it is not a line of system metrics.
    pub fn take(&mut self, line: &str) -> bool {
        let Some(values) = object(line) else {
            return false;
        };
        if let Some(time) = values.get("time").and_then(Value::as_f64) {
            // A run that goes on in the same file counts its seconds from nought again.
            let last = self.table.last("time").unwrap_or(0.0);
            if time + self.before < last {
                self.before = last;
            }
        }
        self.table.push(values.iter().filter_map(|(name, value)| {
            let value = value.as_f64()?;
            match name == "time" {
                true => Some((name.as_str(), value + self.before)),
                false => Some((name.as_str(), value)),
            }
        }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_went_on_does_not_go_back_in_time() {
        let mut metrics = Metrics::default();
        for time in [1, 5, 2, 3] {
            assert!(metrics.take(&format!("{{\"time\": {time}, \"gpu.0.pct\": null}}")));
        }
        assert_eq!(metrics.table.get("time"), Some(&[1.0, 5.0, 7.0, 8.0][..]));
        assert_eq!(metrics.table.get("gpu.0.pct"), None);
        assert!(!metrics.take("[]"));
    }
}
