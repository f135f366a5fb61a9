//! Reads the fields of `config.json` that families share, each with the values that it may have.

use super::{Rope, Yarn};
use crate::ops::Heads;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::within;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Bounds far above those of any existing model, so that products of sizes cannot overflow before anything is allocated.
pub const MOST_LAYERS: usize = 1 << 12;
/// The greatest width of a vector.
pub const MOST_WIDTH: usize = 1 << 20;
/// The greatest number of heads or of experts.
pub const MOST_PARTS: usize = 1 << 16;
/// The greatest length of a sequence.
pub const MOST_POSITIONS: usize = 1 << 30;

/// The fields of the file, or of an object in it; `prefix` is the path of that object, for messages.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: String,
}

/// What transformers takes for a family where config.json does not say it.
#[derive(Debug, Clone, Default)]
pub struct UnsetRope {
    /// YaRN, if there are no settings of the rotary embedding.
    pub yarn: Option<Yarn>,
    /// The field of config.json with the length of sequences in the original training.
    pub original: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of the file.
    pub fn of(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            prefix: String::new(),
        }
    }

    /// A field, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there, even if it is null.
    pub fn contains(&self, name: &str) -> bool {
        self.map.contains_key(name)
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

    /// Reads a flag, or takes the default.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let prefix = &self.prefix;
        let flag = value.as_bool();
        flag.with_context(|| format!("{prefix}{name} is {value}, expected true or false"))
    }

    /// Reads the number and size of heads.
    pub fn heads(&self) -> Result<Heads> {
        Ok(Heads {
            q: self.size("num_attention_heads", MOST_PARTS)?,
            kv: self.size("num_key_value_heads", MOST_PARTS)?,
            dim: self.size("head_dim", MOST_PARTS)?,
        })
    }

    /// Reads for each layer whether it has a sliding window, if the field is there.
    pub fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(types) = self.get("layer_types") else {
            return Ok(None);
        };
        let types = types.as_array().context("layer_types is not a list")?;
        ensure!(
            types.len() == layers,
            "layer_types has {} entries for {layers} layers",
            types.len()
        );
        let sliding = types.iter().map(|kind| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => bail!("layer_types holds {kind}, expected sliding_attention or full_attention"),
        });
        sliding.collect::<Result<_>>().map(Some)
    }

    /// Reads the settings of the rotary embedding.
    pub fn rope(&self, unset: &UnsetRope) -> Result<Rope> {
        const THETA: RangeInclusive<f64> = 1.001..=1e12;
        let names = ["rope_parameters", "rope_scaling"];
        let Some(name) = names.into_iter().find(|name| self.get(name).is_some()) else {
            let null = names.into_iter().find(|name| self.contains(name));
            if let (Some(name), Some(_)) = (null, &unset.yarn) {
                bail!(
                    "{name} is null, which is read in two ways; write rope_type yarn or default into it"
                );
            }
            let theta = self.given("rope_theta", &THETA)?;
            return Ok(Rope {
                theta: theta.context("rope_theta is missing")?,
                yarn: unset.yarn.clone(),
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
            Some(Some("yarn")) => Some(inner.yarn(self, unset)?),
            Some(_) => bail!(
                "{name}.rope_type is {}, expected yarn or default",
                kind.unwrap_or(&Value::Null)
            ),
        };
        Ok(Rope { theta, yarn })
    }

    fn yarn(&self, outer: &Self, unset: &UnsetRope) -> Result<Yarn> {
        const ROTATIONS: RangeInclusive<f64> = 1e-6..=1e6;
        let lengths = 1.0..=MOST_POSITIONS as f64;
        let prefix = &self.prefix;
        let factor = self.given("factor", &(1.0..=1e6))?;
        let original = match self.given("original_max_position_embeddings", &lengths)? {
            Some(original) => Some(original),
            None => match unset.original {
                Some(name) => outer.given(name, &lengths)?,
                None => None,
            },
        };
        let yarn = Yarn {
            factor: factor.with_context(|| format!("{prefix}factor is missing"))?,
            beta_fast: self.number("beta_fast", 32.0, ROTATIONS)?,
            beta_slow: self.number("beta_slow", 1.0, ROTATIONS)?,
            original: original
                .with_context(|| format!("{prefix}original_max_position_embeddings is missing"))?,
            truncate: self.flag("truncate", true)?,
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

    /// Checks that a field that may be left out has this value where it is set, since no other is computed; `why` says so.
    pub fn fixed(&self, name: &str, expected: &Value, why: &str) -> Result<()> {
        let Some(found) = self.get(name) else {
            return Ok(());
        };
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => found == expected,
        };
        ensure!(same, "{name} is {found}, expected {expected}: {why}");
        Ok(())
    }
}
