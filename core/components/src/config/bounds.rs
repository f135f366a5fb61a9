//! Between which numbers the value of a numeric flag can be meant, from the command line and from a file alike.

use super::flag::Flag;

use anyhow::Result;
use apus_base::limits::MAX_RANK;
use apus_sdk::within;
use serde_json::Value;
use std::ops::{Bound, RangeBounds};

/// A range whose ends are known.
#[derive(Debug, Clone, Copy)]
struct Range(Bound<f64>, Bound<f64>);

impl RangeBounds<f64> for Range {
    fn start_bound(&self) -> Bound<&f64> {
        self.0.as_ref()
    }

    fn end_bound(&self) -> Bound<&f64> {
        self.1.as_ref()
    }
}

const fn from(low: f64) -> Range {
    Range(Bound::Included(low), Bound::Unbounded)
}

const fn above(low: f64) -> Range {
    Range(Bound::Excluded(low), Bound::Unbounded)
}

/// Both ends can be meant.
const fn between(low: f64, high: f64) -> Range {
    Range(Bound::Included(low), Bound::Included(high))
}

/// A share that is never the whole.
const SHARE: Range = Range(Bound::Included(0.0), Bound::Excluded(1.0));

/// Counts that memory is made for.
const COUNT: Range = between(1.0, (1u64 << 32) as f64);

/// Anything finite, or any whole number of its type.
const ANY: Range = Range(Bound::Unbounded, Bound::Unbounded);

/// Every numeric flag.
const BOUNDS: &[(&str, Range)] = &[
    ("adam_beta1", SHARE),
    ("adam_beta2", SHARE),
    ("adam_epsilon", above(0.0)),
    ("batch", COUNT),
    ("data_seed", ANY),
    ("early_stop_interval", from(1.0)),
    ("eval_steps", above(0.0)),
    ("gradient_accumulation_steps", COUNT),
    ("interleave_prob", between(0.0, 1.0)),
    ("learning_rate", from(0.0)),
    ("logging_steps", above(0.0)),
    ("lora_alpha", ANY),
    ("lora_dropout", SHARE),
    ("lora_rank", between(1.0, MAX_RANK as f64)),
    ("lorap_lr_ratio", above(0.0)),
    ("max_grad_norm", ANY),
    ("max_length", COUNT),
    ("max_new_tokens", from(1.0)),
    ("max_steps", from(-1.0)),
    ("neftune_noise_alpha", from(0.0)),
    ("num_train_epochs", above(0.0)),
    ("per_device_eval_batch_size", COUNT),
    ("per_device_train_batch_size", COUNT),
    ("repetition_penalty", above(0.0)),
    ("router_aux_loss_coef", from(0.0)),
    ("samples", from(0.0)),
    ("save_steps", above(0.0)),
    ("save_total_limit", from(1.0)),
    ("seed", ANY),
    ("shuffle_buffer_size", between(0.0, (1u64 << 32) as f64)),
    ("split_dataset_ratio", SHARE),
    ("steps", from(1.0)),
    ("swanlab_smtp_port", between(1.0, 65_535.0)),
    ("temperature", from(0.0)),
    ("top_k", from(-1.0)),
    ("top_p", Range(Bound::Excluded(0.0), Bound::Included(1.0))),
    ("tracker_timeout", from(0.0)),
    (
        "trained_share",
        Range(Bound::Excluded(0.0), Bound::Included(1.0)),
    ),
    ("val_dataset_sample", from(0.0)),
    ("warmup_ratio", SHARE),
    ("warmup_steps", from(0.0)),
    ("weight_decay", from(0.0)),
];

/// Checks the value of a flag; one that is no number is somebody else's affair.
///
/// # Errors
/// A number that cannot be meant; the error names the flag, what was found and what was expected.
pub(super) fn check(flag: &Flag, value: &Value) -> Result<()> {
    let range = BOUNDS.iter().find(|(name, _)| *name == flag.name);
    let Some((name, range)) = range else {
        return Ok(());
    };
    let numbers = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    for number in numbers.iter().filter_map(Value::as_f64) {
        within(name, &number, range)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Config, FLAGS, ValueKind};
    use super::*;
    use std::collections::BTreeSet;

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
        let flags: BTreeSet<&str> = numeric().map(|flag| flag.name).collect();
        let bounds: BTreeSet<&str> = BOUNDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(flags, bounds);
    }

    fn resolved(command: Command, words: &[String]) -> Result<(), String> {
        fn run<T: Config>(words: &[String]) -> Result<(), String> {
            let found = super::super::from_arguments::<T>(words);
            found.map(drop).map_err(|error| format!("{error:#}"))
        }
        match command {
            Command::Sft => run::<super::super::SftConfig>(words),
            Command::Infer => run::<super::super::InferConfig>(words),
            Command::Export => run::<super::super::ExportConfig>(words),
            Command::ModelNew => run::<super::super::ModelNewConfig>(words),
            Command::Bench => run::<super::super::BenchConfig>(words),
            Command::Data => run::<super::super::DataConfig>(words),
        }
    }

    /// What is outside of the bounds, and what is no number at all, from both places.
    #[test]
    fn values_that_cannot_be_meant_name_their_flag() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        for flag in numeric() {
            let (_, range) = BOUNDS.iter().find(|(name, _)| *name == flag.name).unwrap();
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
                for &command in flag.commands {
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
            for command in flag.commands {
                let all = match command {
                    Command::Sft => values::<super::super::SftConfig>(),
                    Command::Infer => values::<super::super::InferConfig>(),
                    Command::Bench => values::<super::super::BenchConfig>(),
                    Command::Data => values::<super::super::DataConfig>(),
                    Command::Export => values::<super::super::ExportConfig>(),
                    Command::ModelNew => values::<super::super::ModelNewConfig>(),
                };
                check(flag, &all[flag.name]).unwrap();
            }
        }
    }
}
