//! `config.json` of a gpt-oss model, in the spelling of the model's authors and of transformers 5.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::path::Path;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Experts in a layer.
    pub num_local_experts: usize,
    /// Experts that a token uses.
    pub num_experts_per_tok: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Keys that a query of a sliding layer sees, itself included.
    pub sliding_window: usize,
    /// For each layer, whether it slides.
    pub sliding: Vec<bool>,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Bound in the experts' activation.
    pub swiglu_limit: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Everything as it stands in the file, to be written again.
    pub raw: Map<String, Value>,
}

/// Rotary embedding with YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// YaRN, or `None` for plain rotation.
    pub yarn: Option<Yarn>,
}

/// Parameters of YaRN (Peng et al., <https://arxiv.org/abs/2309.00071>).
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// How many times longer than trained.
    pub factor: f64,
    /// Rotations above which nothing is interpolated.
    pub beta_fast: f64,
    /// Rotations below which everything is.
    pub beta_slow: f64,
    /// Length of the original training.
    pub original: f64,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing, malformed, not of a gpt-oss model, or lacks a field; the error names it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display()))?;
        Self::parse(value).with_context(|| path.display().to_string())
    }

    /// Reads its content.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(raw) = value else {
            bail!("expected a JSON object")
        };
        match raw.get("model_type").and_then(Value::as_str) {
            Some("gpt_oss") => {}
            Some(other) => bail!("model_type is {other:?}; Apus trains gpt_oss models only"),
            None => bail!("has no model_type; Apus trains gpt_oss models only"),
        }
        let fields = Fields(&raw);
        let layers = fields.size("num_hidden_layers")?;
        let config = Self {
            num_hidden_layers: layers,
            hidden_size: fields.size("hidden_size")?,
            intermediate_size: fields.size("intermediate_size")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            num_key_value_heads: fields.size("num_key_value_heads")?,
            head_dim: fields.size("head_dim")?,
            num_local_experts: fields.size("num_local_experts")?,
            num_experts_per_tok: fields
                .size("num_experts_per_tok")
                .or_else(|error| fields.size("experts_per_token").map_err(|_| error))?,
            vocab_size: fields.size("vocab_size")?,
            sliding_window: fields.size("sliding_window")?,
            sliding: fields.layer_types(layers)?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5),
            swiglu_limit: fields.number("swiglu_limit")?.unwrap_or(7.0),
            rope: fields.rope()?,
            raw: raw.clone(),
        };
        ensure!(
            config
                .num_attention_heads
                .is_multiple_of(config.num_key_value_heads),
            "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
            config.num_attention_heads,
            config.num_key_value_heads
        );
        ensure!(
            config.head_dim.is_multiple_of(2),
            "head_dim ({}) is odd",
            config.head_dim
        );
        ensure!(
            config.num_experts_per_tok <= config.num_local_experts,
            "num_experts_per_tok ({}) exceeds num_local_experts ({})",
            config.num_experts_per_tok,
            config.num_local_experts
        );
        if raw.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true) {
            bail!("tie_word_embeddings is true; gpt-oss has an output head of its own");
        }
        Ok(config)
    }

    /// Width of all query heads together.
    pub fn attention_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn size(&self, name: &str) -> Result<usize> {
        match self.0.get(name) {
            Some(value) => match value.as_u64() {
                Some(size) if size > 0 => Ok(size as usize),
                _ => bail!("{name} is {value}, expected a positive integer"),
            },
            None => bail!("{name} is missing"),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => bail!("{name} is {value}, expected a number"),
            },
        }
    }

    fn layer_types(&self, layers: usize) -> Result<Vec<bool>> {
        let Some(types) = self.0.get("layer_types").filter(|types| !types.is_null()) else {
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

    fn rope(&self) -> Result<Rope> {
        let parameters = ["rope_parameters", "rope_scaling"].iter().find_map(|name| {
            self.0
                .get(*name)
                .and_then(Value::as_object)
                .map(|map| (*name, map))
        });
        let Some((name, map)) = parameters else {
            let theta = self
                .number("rope_theta")?
                .context("rope_theta is missing")?;
            return Ok(Rope { theta, yarn: None });
        };
        let inner = Fields(map);
        let theta = match inner.number("rope_theta")? {
            Some(theta) => theta,
            None => self
                .number("rope_theta")?
                .context("rope_theta is missing")?,
        };
        let kind = map
            .get("rope_type")
            .or_else(|| map.get("type"))
            .and_then(Value::as_str);
        let yarn = match kind {
            Some("default") | None => None,
            Some("yarn") => {
                let factor = inner.number("factor")?;
                let original = match inner.number("original_max_position_embeddings")? {
                    Some(original) => Some(original),
                    None => self.number("initial_context_length")?,
                };
                Some(Yarn {
                    factor: factor.with_context(|| format!("{name}.factor is missing"))?,
                    beta_fast: inner.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: inner.number("beta_slow")?.unwrap_or(1.0),
                    original: original.with_context(|| {
                        format!("{name}.original_max_position_embeddings is missing")
                    })?,
                    truncate: map.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                })
            }
            Some(other) => bail!("{name}.rope_type is {other:?}, expected yarn or default"),
        };
        Ok(Rope { theta, yarn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(form: &str) -> Config {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/tiny");
        Config::read(&Path::new(dir).join(form).join("config.json")).unwrap()
    }

    #[test]
    fn both_spellings_say_the_same() {
        let (old, new) = (golden("model_mxfp4"), golden("model_bf16"));
        assert_eq!(old.rope, new.rope);
        assert_eq!(old.sliding, [true, false, true, false]);
        assert_eq!(
            Config {
                raw: Map::new(),
                ..old
            },
            Config {
                raw: Map::new(),
                ..new
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let broken = |key: &str, value: Value| {
            let mut raw = golden("model_mxfp4").raw;
            raw.insert(key.to_owned(), value);
            Config::parse(Value::Object(raw)).unwrap_err().to_string()
        };
        assert!(broken("model_type", "llama".into()).contains("\"llama\""));
        assert!(broken("hidden_size", (-3).into()).contains("hidden_size is -3"));
        assert!(broken("layer_types", Value::Array(vec![])).contains("0 entries for 4 layers"));
        let mut raw = golden("model_mxfp4").raw;
        raw.remove("sliding_window");
        let error = Config::parse(Value::Object(raw)).unwrap_err().to_string();
        assert!(error.contains("sliding_window is missing"));
    }
}
