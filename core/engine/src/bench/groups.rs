//! The table of how much time of a step each group of operations takes.

use super::count::Count;
use super::table;
use super::traffic::Traffic;
use apus_model::profile::{OpGroup, Profile};
use serde_json::{Value, json};
use std::fmt;

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: &'static str,
    /// Milliseconds a step.
    milliseconds: f64,
    /// Spans a step.
    calls: f64,
    /// Operations a step, if counted.
    flops: Option<u64>,
    /// Bytes a step, if counted.
    bytes: Option<u64>,
}

/// The table.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    rows: Vec<Row>,
    /// Milliseconds a step.
    total: f64,
    steps: usize,
}

impl Groups {
    /// Makes the table from the profile of steps and from their counts.
    pub fn new(profile: &Profile, counts: &[(Count, Traffic)]) -> Self {
        let steps = counts.len().max(1);
        let each = |value: f64| value / steps as f64;
        let sum = |count: &dyn Fn(&(Count, Traffic)) -> u64| {
            let sum: u64 = counts.iter().map(count).sum();
            Some(sum / steps as u64).filter(|&sum| sum > 0)
        };
        let mut rows = Vec::new();
        for group in OpGroup::ALL {
            if profile.calls(group) == 0 {
                continue;
            }
            rows.push(Row {
                name: group.name(),
                milliseconds: each(profile.milliseconds(group)),
                calls: each(profile.calls(group) as f64),
                flops: sum(&|counts| flops(group, &counts.0)),
                bytes: sum(&|counts| bytes(group, &counts.1)),
            });
        }
        rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        rows.push(Row {
            name: "other and idle",
            milliseconds: each(profile.other()),
            calls: 0.0,
            flops: None,
            bytes: None,
        });
        Self {
            rows,
            total: each(profile.total),
            steps,
        }
    }

    /// The table as JSON.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "group": row.name,
                    "milliseconds": row.milliseconds,
                    "share": row.milliseconds / self.total,
                    "calls": row.calls,
                    "flops": row.flops,
                    "bytes": row.bytes,
                })
            })
            .collect();
        json!({ "steps": self.steps, "milliseconds": self.total, "groups": rows })
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut lines = table::plain();
        lines.set_header(["group", "ms a step", "share", "calls", "rate"]);
        for row in &self.rows {
            let rate = match (row.flops, row.bytes) {
                (Some(flops), _) => table::flops(flops as f64, row.milliseconds),
                (_, Some(bytes)) => table::gbytes(bytes as f64, row.milliseconds),
                (None, None) => String::new(),
            };
            let calls = match row.calls {
                0.0 => String::new(),
                calls => format!("{calls:.0}"),
            };
            lines.add_row([
                row.name.to_owned(),
                format!("{:.2}", row.milliseconds),
                format!("{:.1} %", 100.0 * row.milliseconds / self.total),
                calls,
                rate,
            ]);
        }
        table::align_right(&mut lines, 1..5);
        write!(
            f,
            "where the time goes: {} more steps, profiled, {:.2} ms each\n{lines}",
            self.steps, self.total
        )
    }
}

fn flops(group: OpGroup, count: &Count) -> u64 {
    let all = count.model + count.again;
    match group {
        OpGroup::Attention => all.attention,
        OpGroup::Projections => all.projections,
        OpGroup::Experts => all.experts,
        OpGroup::Head => all.head,
        OpGroup::Lora => all.lora,
        _ => 0,
    }
}

fn bytes(group: OpGroup, traffic: &Traffic) -> u64 {
    match group {
        OpGroup::Norms => traffic.norms,
        OpGroup::Rope => traffic.rope,
        OpGroup::Activation => traffic.activation,
        OpGroup::Dequantise => traffic.dequantise,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::profile::{Recording, span};
    use candle_core::Device;

    #[test]
    fn groups_with_time_have_a_line_and_the_rest_is_other() {
        let recording = Recording::start(&Device::Cpu).unwrap();
        drop(span(OpGroup::Norms));
        drop(span(OpGroup::Norms));
        let profile = recording.finish().unwrap();
        let traffic = Traffic {
            norms: 1 << 20,
            ..Traffic::default()
        };
        let groups = Groups::new(&profile, &[(Count::default(), traffic); 2]);
        let names: Vec<&str> = groups.rows.iter().map(|row| row.name).collect();
        assert_eq!(names, ["norms", "other and idle"]);
        assert_eq!(groups.rows[0].bytes, Some(1 << 20));
        assert_eq!(groups.rows[0].calls, 1.0);
        let text = groups.to_string();
        assert!(
            text.contains("2 more steps") && text.contains("GB/s"),
            "{text}"
        );
    }
}
