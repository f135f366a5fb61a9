//! `train_type`: what of a model is trained.

use super::flag::ValueKind;
use super::value::FlagValue;
use crate::registry::Spec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// What of a model is trained: low-rank updates, everything, or what a tuner adds, which is named with its options as any component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Spec", into = "Value")]
pub enum TrainType {
    /// Low-rank updates.
    Lora,
    /// Everything.
    Full,
    /// What this tuner adds.
    Tuner(Spec),
}

impl TrainType {
    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Lora => "lora",
            Self::Full => "full",
            Self::Tuner(spec) => &spec.name,
        }
    }
}

impl TryFrom<Spec> for TrainType {
    type Error = String;

    fn try_from(spec: Spec) -> Result<Self, String> {
        let plain = match spec.name.as_str() {
            "lora" => Self::Lora,
            "full" => Self::Full,
            _ => return Ok(Self::Tuner(spec)),
        };
        match spec.options.keys().next() {
            None => Ok(plain),
            Some(option) => Err(format!(
                "train_type {} has no option {option}: its settings are flags of their own, such as --lora_rank",
                spec.name
            )),
        }
    }
}

impl From<TrainType> for Value {
    fn from(of: TrainType) -> Self {
        match of {
            TrainType::Tuner(spec) if !spec.options.is_empty() => {
                serde_json::to_value(spec).unwrap_or_default()
            }
            plain => plain.as_str().into(),
        }
    }
}

impl fmt::Display for TrainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FlagValue for TrainType {
    const KIND: ValueKind = ValueKind::Component;
}

#[cfg(test)]
mod tests {
    use super::super::{SftConfig, from_arguments, values};
    use super::*;
    use serde_json::json;

    fn config(line: &str) -> anyhow::Result<SftConfig> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Ok(from_arguments::<SftConfig>(&words)?.config)
    }

    #[test]
    fn lora_and_full_are_words_and_a_tuner_has_options() {
        for (line, written) in [
            ("--train_type lora", json!("lora")),
            ("--sft_type full", json!("full")),
            ("--tuner_type shift", json!("shift")),
            (
                "--tuner_type shift --tuner_type.start 2",
                json!({"name": "shift", "start": 2}),
            ),
        ] {
            let config = config(line).unwrap();
            assert_eq!(values(&config)["train_type"], written, "{line}");
            let again: TrainType = serde_json::from_value(written).unwrap();
            assert_eq!(again, config.train_type, "{line}");
        }
        let said = format!(
            "{:#}",
            config("--train_type lora --train_type.rank 2").unwrap_err()
        );
        assert!(
            said.contains("train_type lora has no option rank"),
            "{said}"
        );
    }
}
