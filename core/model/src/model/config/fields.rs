//! Reads the fields of `config.json`, each with the values that it may have.

use super::{MOST_PARTS, MOST_POSITIONS, Rope, Yarn};
use crate::ops::swiglu;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::within;
use serde_json::{Map, Value, json};
use std::ops::RangeInclusive;

/// The fields of the file, or of an object in it; `prefix` is the path of that object, for messages.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The fields of the file.
    pub fn of(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            prefix: String::new(),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Reads a size from 1 to `most`.
    pub fn size(&self, name: &str, most: usize) -> Result<usize> {
        let prefix = &self.prefix;
        let Some(value) = self.map.get(name) else {
            bail!("{prefix}{name} is missing")
        };
        match value.as_u64() {
            Some(size) if (1..=most as u64).contains(&size) => Ok(size as usize),
            _ => bail!("{prefix}{name} is {value}, expected a whole number from 1 to {most}"),
        }
    }

    /// Reads a number within these bounds, if the field is there.
    fn given(&self, name: &str, bounds: &RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let name = format!("{}{name}", self.prefix);
        let number = value.as_f64();
        let number = number.with_context(|| format!("{name} is {value}, expected a number"))?;
        within(&name, &number, bounds)?;
        Ok(Some(number))
    }

    /// Reads a number within these bounds, or takes the default.
    pub fn number(&self, name: &str, default: f64, bounds: RangeInclusive<f64>) -> Result<f64> {
        Ok(self.given(name, &bounds)?.unwrap_or(default))
    }

    /// Reads `num_experts_per_tok`, which the authors of gpt-oss write under two names.
    pub fn experts_per_token(&self) -> Result<usize> {
        let names = ["num_experts_per_tok", "experts_per_token"];
        let sizes = names.map(|name| match self.map.contains_key(name) {
            true => self.size(name, MOST_PARTS).map(Some),
            false => Ok(None),
        });
        let [first, second] = sizes;
        match (first?, second?) {
            (Some(a), Some(b)) if a != b => {
                bail!(
                    "num_experts_per_tok is {a} and experts_per_token {b}, which is the same field"
                )
            }
            (Some(size), _) | (None, Some(size)) => Ok(size),
            (None, None) => bail!("num_experts_per_tok is missing"),
        }
    }

    /// Reads for each layer whether it has a sliding window.
    pub fn layer_types(&self, layers: usize) -> Result<Vec<bool>> {
        let Some(types) = self.get("layer_types") else {
            return Ok((0..layers).map(|layer| layer % 2 == 0).collect());
        };
        let types = types.as_array().context("layer_types is not a list")?;
        ensure!(
            types.len() == layers,
            "layer_types has {} entries for {layers} layers",
            types.len()
        );
        types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                _ => {
                    bail!("layer_types holds {kind}, expected sliding_attention or full_attention")
                }
            })
            .collect()
    }

    /// Reads the settings of the rotary embedding.
    pub fn rope(&self) -> Result<Rope> {
        const THETA: RangeInclusive<f64> = 1.001..=1e12;
        let names = ["rope_parameters", "rope_scaling"];
        let Some(name) = names.into_iter().find(|name| self.get(name).is_some()) else {
            if let Some(name) = names.into_iter().find(|name| self.map.contains_key(*name)) {
                bail!(
                    "{name} is null, which is read in two ways; write rope_type yarn or default into it"
                );
            }
            let theta = self.given("rope_theta", &THETA)?;
            return Ok(Rope {
                theta: theta.context("rope_theta is missing")?,
                // As transformers for gpt-oss.
                yarn: Some(Yarn {
                    factor: 32.0,
                    beta_fast: 32.0,
                    beta_slow: 1.0,
                    original: 4096.0,
                    truncate: false,
                }),
            });
        };
        let map = self.map[name].as_object();
        let inner = Fields {
            map: map.with_context(|| format!("{name} is {}, expected a table", self.map[name]))?,
            prefix: format!("{name}."),
        };
        let theta = match inner.given("rope_theta", &THETA)? {
            Some(theta) => theta,
            None => self
                .given("rope_theta", &THETA)?
                .context("rope_theta is missing")?,
        };
        inner.refuse_unknown()?;
        let kind = inner.get("rope_type").or_else(|| inner.get("type"));
        let yarn = match kind.map(|kind| kind.as_str()) {
            None | Some(Some("default")) => None,
            Some(Some("yarn")) => Some(inner.yarn(self)?),
            Some(_) => bail!(
                "{name}.rope_type is {}, expected yarn or default",
                kind.unwrap_or(&Value::Null)
            ),
        };
        Ok(Rope { theta, yarn })
    }

    fn yarn(&self, outer: &Self) -> Result<Yarn> {
        const ROTATIONS: RangeInclusive<f64> = 1e-6..=1e6;
        let lengths = 1.0..=MOST_POSITIONS as f64;
        let prefix = &self.prefix;
        let factor = self.given("factor", &(1.0..=1e6))?;
        let original = match self.given("original_max_position_embeddings", &lengths)? {
            Some(original) => Some(original),
            None => outer.given("initial_context_length", &lengths)?,
        };
        let yarn = Yarn {
            factor: factor.with_context(|| format!("{prefix}factor is missing"))?,
            beta_fast: self.number("beta_fast", 32.0, ROTATIONS)?,
            beta_slow: self.number("beta_slow", 1.0, ROTATIONS)?,
            original: original
                .with_context(|| format!("{prefix}original_max_position_embeddings is missing"))?,
            truncate: match self.get("truncate") {
                None => true,
                Some(value) => value.as_bool().with_context(|| {
                    format!("{prefix}truncate is {value}, expected true or false")
                })?,
            },
        };
        ensure!(
            yarn.beta_fast >= yarn.beta_slow,
            "{prefix}beta_fast is {}, below {prefix}beta_slow ({})",
            yarn.beta_fast,
            yarn.beta_slow
        );
        Ok(yarn)
    }

    /// Refuses settings of the rotary embedding that Apus does not compute.
    fn refuse_unknown(&self) -> Result<()> {
        const KNOWN: [&str; 8] = [
            "beta_fast",
            "beta_slow",
            "factor",
            "original_max_position_embeddings",
            "rope_theta",
            "rope_type",
            "truncate",
            "type",
        ];
        let set = |name: &&String| self.get(name).is_some() && !KNOWN.contains(&name.as_str());
        match self.map.keys().find(set) {
            Some(name) => bail!(
                "{}{name} is {}, which is not computed here",
                self.prefix,
                self.map[name]
            ),
            None => Ok(()),
        }
    }

    /// Checks fields that must have one value, since Apus computes no other.
    pub fn check_fixed(&self) -> Result<()> {
        let alpha = f64::from(swiglu::ALPHA);
        if let Some(found) = self.get("swiglu_alpha") {
            let close = |found: f64| (found - alpha).abs() < 1e-6;
            ensure!(
                found.as_f64().is_some_and(close),
                "swiglu_alpha is {found}, expected {alpha:.3}"
            );
        }
        for (name, expected, why) in [
            (
                "attention_bias",
                json!(true),
                "gpt-oss has biases in its attention",
            ),
            (
                "attention_dropout",
                json!(0.0),
                "attention has no dropout here",
            ),
            ("hidden_act", json!("silu"), "there is no other activation"),
            (
                "partial_rotary_factor",
                json!(1.0),
                "all dimensions are rotated",
            ),
            (
                "tie_word_embeddings",
                json!(false),
                "gpt-oss has an output head of its own",
            ),
        ] {
            let Some(found) = self.get(name) else {
                continue;
            };
            let same = match (found.as_f64(), expected.as_f64()) {
                (Some(found), Some(expected)) => found == expected,
                _ => *found == expected,
            };
            ensure!(same, "{name} is {found}, expected {expected}: {why}");
        }
        if let Some(quantization) = self.get("quantization_config") {
            let method = quantization.get("quant_method").and_then(Value::as_str);
            ensure!(
                method == Some("mxfp4"),
                "quantization_config is {quantization}, expected quant_method mxfp4, or none at all for BF16 weights"
            );
        }
        Ok(())
    }
}
