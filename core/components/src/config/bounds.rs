//! Between which numbers the value of a numeric flag can be meant, from the command line and from a file alike.

use super::flag::Flag;

use anyhow::Result;
use apus_sdk::within;
use serde_json::Value;
use std::ops::{Bound, RangeBounds};

/// A range whose ends are known.
#[derive(Debug, Clone, Copy)]
pub struct Range(pub(super) Bound<f64>, pub(super) Bound<f64>);

impl RangeBounds<f64> for Range {
    fn start_bound(&self) -> Bound<&f64> {
        self.0.as_ref()
    }

    fn end_bound(&self) -> Bound<&f64> {
        self.1.as_ref()
    }
}

/// This number or more.
pub(super) const fn from(low: f64) -> Range {
    Range(Bound::Included(low), Bound::Unbounded)
}

/// More than this number.
pub(super) const fn above(low: f64) -> Range {
    Range(Bound::Excluded(low), Bound::Unbounded)
}

/// Both ends can be meant.
pub(super) const fn between(low: f64, high: f64) -> Range {
    Range(Bound::Included(low), Bound::Included(high))
}

/// A share that may be the whole.
pub(super) const fn share_above(low: f64) -> Range {
    Range(Bound::Excluded(low), Bound::Included(1.0))
}

/// A share that is never the whole.
pub(super) const SHARE: Range = Range(Bound::Included(0.0), Bound::Excluded(1.0));

/// Counts that memory is made for.
pub(super) const COUNT: Range = between(1.0, (1u64 << 32) as f64);

/// Anything finite, or any whole number of its type.
pub(super) const ANY: Range = Range(Bound::Unbounded, Bound::Unbounded);

/// Checks the value of a flag; one that is no number is somebody else's affair.
///
/// # Errors
/// A number that cannot be meant; the error names the flag, what was found and what was expected.
pub(super) fn check(flag: &Flag, value: &Value) -> Result<()> {
    let Some(range) = flag.bounds else {
        return Ok(());
    };
    let numbers = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    for number in numbers.iter().filter_map(Value::as_f64) {
        within(flag.name, &number, &range)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Config, FLAGS, ValueKind};
    use super::*;

    fn numeric() -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(|flag| {
            matches!(
                flag.kind,
                ValueKind::Int | ValueKind::Float | ValueKind::Floats
            )
        })
    }

    #[test]
    fn every_numeric_flag_has_bounds_and_no_other() {
        for flag in FLAGS.iter() {
            let is_number = numeric().any(|number| number.name == flag.name);
            assert_eq!(flag.bounds.is_some(), is_number, "{}", flag.name);
        }
    }

    fn resolved(command: Command, words: &[String]) -> Result<(), String> {
        fn run<T: Config>(words: &[String]) -> Result<(), String> {
            let found = super::super::from_arguments::<T>(words);
            found.map(drop).map_err(|error| format!("{error:#}"))
        }
        match command {
            Command::Sft => run::<super::super::SftConfig>(words),
            Command::Infer => run::<super::super::InferConfig>(words),
            Command::Deploy => run::<super::super::DeployConfig>(words),
            Command::Export => run::<super::super::ExportConfig>(words),
            Command::ModelNew => run::<super::super::ModelNewConfig>(words),
            Command::Bench => run::<super::super::BenchConfig>(words),
            Command::Data => run::<super::super::DataConfig>(words),
            Command::Eval => run::<super::super::EvalConfig>(words),
        }
    }

    /// What is outside of the bounds, and what is no number at all, from both places.
    #[test]
    fn values_that_cannot_be_meant_name_their_flag() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        for flag in numeric() {
            let range = flag.bounds.unwrap();
            let mut bad = vec!["nan".to_owned(), "inf".to_owned(), "-inf".to_owned()];
            match range.0 {
                Bound::Included(low) => bad.push((low - 1.0).to_string()),
                Bound::Excluded(low) => bad.push(low.to_string()),
                Bound::Unbounded => {}
            }
            match range.1 {
                Bound::Included(high) => bad.push((high + 1.0).to_string()),
                Bound::Excluded(high) => bad.push(high.to_string()),
                Bound::Unbounded => {}
            }
            for value in bad {
                for command in flag.uses.iter().map(|used| used.command) {
                    let words = [format!("--{}={value}", flag.name)];
                    let said = resolved(command, &words).unwrap_err();
                    assert!(said.contains(flag.name), "{command:?} {words:?}: {said}");
                    let toml = match (flag.kind, value.contains(['n', '.'])) {
                        (ValueKind::Floats, _) => format!("{} = [0.5, {value}]\n", flag.name),
                        (ValueKind::Float, false) => format!("{} = {value}.0\n", flag.name),
                        _ => format!("{} = {value}\n", flag.name),
                    };
                    std::fs::write(&file, &toml).unwrap();
                    let words = ["--config".to_owned(), file.display().to_string()];
                    let said = resolved(command, &words).unwrap_err();
                    assert!(said.contains(flag.name), "{command:?} {toml}: {said}");
                }
            }
        }
    }

    #[test]
    fn defaults_are_within_their_bounds() {
        fn values<T: Config>() -> Value {
            serde_json::to_value(T::default()).unwrap()
        }
        for flag in numeric() {
            for used in flag.uses {
                let all = match used.command {
                    Command::Sft => values::<super::super::SftConfig>(),
                    Command::Infer => values::<super::super::InferConfig>(),
                    Command::Bench => values::<super::super::BenchConfig>(),
                    Command::Data => values::<super::super::DataConfig>(),
                    Command::Deploy => values::<super::super::DeployConfig>(),
                    Command::Eval => values::<super::super::EvalConfig>(),
                    Command::Export => values::<super::super::ExportConfig>(),
                    Command::ModelNew => values::<super::super::ModelNewConfig>(),
                };
                check(flag, &all[flag.name]).unwrap();
            }
        }
    }
}
