//! PEFT's `rank_pattern` and `alpha_pattern`: updates of one adapter whose ranks and alphas differ.

use crate::model::{LoraSettings, Numbers, Targets};
use crate::tensors::{Role, TensorList};
use anyhow::{Context, Result, ensure};
use apus_base::limits::MAX_RANK;
use fancy_regex::Regex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Patterns of the names of targets, in the order of the file, with what their updates have in place of `r` and `lora_alpha`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patterns {
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
}

impl Patterns {
    /// Those that say what these targets have: their whole names.
    pub fn of(targets: &Targets, settings: &LoraSettings) -> Self {
        let own = || targets.own.iter();
        let ranks = own().filter(|(_, numbers)| numbers.rank != settings.rank);
        let alphas = own().filter(|(_, numbers)| numbers.alpha != settings.alpha);
        Self {
            ranks: ranks.map(|(name, own)| (name.clone(), own.rank)).collect(),
            alphas: alphas
                .map(|(name, own)| (name.clone(), own.alpha))
                .collect(),
        }
    }

    /// Reads both fields of `adapter_config.json`.
    ///
    /// # Errors
    /// One is no object, or holds what is no rank or no alpha.
    pub fn parse(json: &Map<String, Value>) -> Result<Self> {
        let rank = |value: &Value| {
            let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
            rank.filter(|rank| (1..=MAX_RANK).contains(rank))
        };
        let alpha = |value: &Value| value.as_f64().filter(|alpha| alpha.is_finite());
        let ranks = format!("a whole number from 1 to {MAX_RANK}");
        Ok(Self {
            ranks: entries(json, "rank_pattern", &ranks, rank)?,
            alphas: entries(json, "alpha_pattern", "a number", alpha)?,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.alphas.is_empty()
    }

    /// The numbers of the targets that have others than these settings: of the first pattern that is a target's whole name, or its
    /// end from a dot on, as PEFT looks for it (`get_pattern_key`).
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn numbers(
        &self,
        list: &TensorList,
        targets: &Targets,
        settings: &LoraSettings,
    ) -> Result<BTreeMap<String, Numbers>> {
        let ranks = compiled("rank_pattern", &self.ranks)?;
        let alphas = compiled("alpha_pattern", &self.alphas)?;
        let experts = targets.experts.iter();
        let experts = experts.filter_map(|&(layer, matrix)| {
            let spec = list.weight(Some(layer), Role::Experts(matrix))?;
            Some(spec.name.as_str())
        });
        let mut own = BTreeMap::new();
        for name in targets.linears.iter().map(String::as_str).chain(experts) {
            let numbers = Numbers {
                rank: first(&ranks, name)?.unwrap_or(settings.rank),
                alpha: first(&alphas, name)?.unwrap_or(settings.alpha),
            };
            if (numbers.rank, numbers.alpha) != (settings.rank, settings.alpha) {
                own.insert(name.to_owned(), numbers);
            }
        }
        Ok(own)
    }

    /// `rank_pattern` as it is written.
    pub fn ranks_json(&self) -> Value {
        let entries = self.ranks.iter();
        entries
            .map(|(name, rank)| (name.clone(), json!(rank)))
            .collect()
    }

    /// `alpha_pattern` as it is written.
    pub fn alphas_json(&self) -> Value {
        let entries = self.alphas.iter();
        entries
            .map(|(name, alpha)| (name.clone(), alpha_json(*alpha)))
            .collect()
    }
}

/// An alpha as it is written: a whole number if it is one.
pub fn alpha_json(alpha: f64) -> Value {
    match alpha.fract() == 0.0 && alpha.abs() < 1e15 {
        true => json!(alpha as i64),
        false => json!(alpha),
    }
}

fn entries<T>(
    json: &Map<String, Value>,
    key: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let map = value.as_object();
    let map = map.with_context(|| format!("{key} is {value}, expected an object"))?;
    let each = map.iter().map(|(name, value)| {
        let found = read(value);
        let found = found
            .with_context(|| format!("{key} has {value} for {name:?}, expected {expected}"))?;
        Ok((name.clone(), found))
    });
    each.collect()
}

fn compiled<T: Copy>(key: &str, entries: &[(String, T)]) -> Result<Vec<(Regex, T)>> {
    let each = entries.iter().map(|(pattern, value)| {
        ensure!(!pattern.is_empty(), "{key} has an empty pattern");
        let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$"))
            .with_context(|| format!("{key} {pattern:?} is no regular expression"))?;
        Ok((regex, *value))
    });
    each.collect()
}

fn first<T: Copy>(entries: &[(Regex, T)], name: &str) -> Result<Option<T>> {
    for (regex, value) in entries {
        if regex.is_match(name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::tiny;
    use crate::adapter::{PeftConfig, TargetSpec, resolve};
    use crate::model::Init;

    fn settings() -> LoraSettings {
        LoraSettings {
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 0,
        }
    }

    fn targets() -> Targets {
        let parameters = ["1.mlp.experts.down_proj", "1.mlp.experts.gate_up_proj"];
        let wanted = TargetSpec {
            parameters: parameters.map(str::to_owned).to_vec(),
            ..TargetSpec::from_names(vec!["q_proj".to_owned(), "o_proj".to_owned()])
        };
        resolve(&tiny(), &wanted).unwrap()
    }

    fn found(ranks: Value, alphas: Value) -> Result<BTreeMap<String, Numbers>> {
        let json = json!({"rank_pattern": ranks, "alpha_pattern": alphas});
        let patterns = Patterns::parse(json.as_object().unwrap())?;
        patterns.numbers(&tiny().tensors(), &targets(), &settings())
    }

    /// As `re.match(rf"(.*\.)?({key})$", name)` of PEFT.
    #[test]
    fn a_pattern_is_a_name_or_its_end_from_a_dot_on() {
        let names = |pattern: &str| {
            let own = found(json!({pattern: 2}), json!({})).unwrap();
            own.into_keys().collect::<Vec<_>>()
        };
        let q = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj");
        assert_eq!(names("q_proj"), [q(0), q(1), q(2), q(3)]);
        assert_eq!(names("layers.2.self_attn.q_proj"), [q(2)]);
        assert_eq!(names("^model.layers.3.self_attn.q_proj"), [q(3)]);
        assert_eq!(names(r"layers\.[02]\.self_attn\.q_proj"), [q(0), q(2)]);
        assert_eq!(names("proj").len(), 0);
        assert_eq!(names("^q_proj").len(), 0);
        assert_eq!(
            names(r".*\.1\..*(q_proj|down_proj)"),
            ["model.layers.1.mlp.experts.down_proj".to_owned(), q(1)]
        );
        assert_eq!(
            names("experts.gate_up_proj"),
            ["model.layers.1.mlp.experts.gate_up_proj"]
        );
    }

    #[test]
    fn the_first_pattern_counts_and_rank_and_alpha_are_apart() {
        let own = found(
            json!({"1.self_attn.q_proj": 2, "q_proj": 3, "o_proj": 4}),
            json!({"0.self_attn.q_proj": 2.5}),
        );
        let own = own.unwrap();
        let of = |layer: usize| own[&format!("model.layers.{layer}.self_attn.q_proj")];
        let numbers = |rank, alpha| Numbers { rank, alpha };
        assert_eq!(of(0), numbers(3, 2.5));
        assert_eq!(of(1), numbers(2, 8.0));
        assert_eq!(own.len(), 4);
        let settings = settings().of(
            &Targets { own, ..targets() },
            "model.layers.0.self_attn.q_proj",
        );
        assert_eq!(settings.scale(), 2.5 / 3.0);
    }

    #[test]
    fn what_is_written_is_read() {
        let own = found(json!({"q_proj": 2}), json!({r"[01]\.self_attn.o_proj": 5})).unwrap();
        let targets = Targets { own, ..targets() };
        let wanted = TargetSpec::from_names(vec!["q_proj".to_owned(), "o_proj".to_owned()]);
        let config = PeftConfig::new(&tiny(), &wanted, &targets, &settings(), None);
        let json = config.to_json();
        assert_eq!(json["rank_pattern"].as_object().unwrap().len(), 4);
        assert_eq!(
            json["alpha_pattern"],
            json!({"model.layers.0.self_attn.o_proj": 5, "model.layers.1.self_attn.o_proj": 5})
        );
        let again = Patterns::parse(json.as_object().unwrap()).unwrap();
        let list = tiny().tensors();
        let own = again.numbers(&list, &targets, &settings()).unwrap();
        assert_eq!(own, targets.own);
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for (ranks, alphas, says) in [
            (json!(3), json!({}), "rank_pattern is 3, expected an object"),
            (
                json!({"q_proj": 0}),
                json!({}),
                "rank_pattern has 0 for \"q_proj\"",
            ),
            (json!({"q_proj": 1.5}), json!({}), "a whole number from 1"),
            (json!({}), json!({"q_proj": "x"}), "alpha_pattern has \"x\""),
            (json!({"(": 2}), json!({}), "no regular expression"),
            (json!({"": 2}), json!({}), "an empty pattern"),
        ] {
            let said = format!("{:#}", found(ranks, alphas).unwrap_err());
            assert!(said.contains(says), "{said}");
        }
    }
}
