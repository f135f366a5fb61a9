//! `config.json` of a gpt-oss model, in the spelling of the model's authors and of transformers 5.

mod fields;

use anyhow::{Context, Result, bail, ensure};
use apus_base::limits::MOST_TOKENS;
use apus_sdk::small_file::{self, Limit};
use fields::Fields;
use serde_json::{Map, Value};
use std::path::Path;

/// Bounds far above those of any existing model, so that products of sizes cannot overflow before anything is allocated.
const MOST_LAYERS: usize = 1 << 12;
const MOST_WIDTH: usize = 1 << 20;
const MOST_PARTS: usize = 1 << 16;
const MOST_POSITIONS: usize = 1 << 30;
const MOST_PARAMETERS: u128 = 1 << 46;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The number of decoder layers.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads.
    pub num_key_value_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// The number of experts in a layer.
    pub num_local_experts: usize,
    /// The number of experts that a token uses.
    pub num_experts_per_tok: usize,
    /// The number of rows of the embedding.
    pub vocab_size: usize,
    /// The number of keys that a query sees in a layer with a sliding window, its own included.
    pub sliding_window: usize,
    /// For each layer, whether it has a sliding window.
    pub sliding: Vec<bool>,
    /// The greatest length of a sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Bound in the experts' activation.
    pub swiglu_limit: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// All fields of the file, kept so that they can be written again.
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
    /// By what factor sequences may be longer than in the original training.
    pub factor: f64,
    /// The number of rotations above which nothing is interpolated.
    pub beta_fast: f64,
    /// The number of rotations below which everything is interpolated.
    pub beta_slow: f64,
    /// The length of sequences in the original training.
    pub original: f64,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// The file is missing, malformed or not of a gpt-oss model, or a field is missing or has a value that no such model
    /// has; the error names it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = small_file::text(path, Limit::STORED)?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display()))?;
        Self::parse(value).with_context(|| path.display().to_string())
    }

    /// Reads its content.
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(raw) = value else {
            bail!("expected a JSON object")
        };
        match raw.get("model_type").and_then(Value::as_str) {
            Some("gpt_oss") => {}
            Some(other) => bail!("model_type is {other:?}; Apus trains gpt_oss models only"),
            None => bail!("has no model_type; Apus trains gpt_oss models only"),
        }
        let fields = Fields::of(&raw);
        let layers = fields.size("num_hidden_layers", MOST_LAYERS)?;
        let config = Self {
            num_hidden_layers: layers,
            hidden_size: fields.size("hidden_size", MOST_WIDTH)?,
            intermediate_size: fields.size("intermediate_size", MOST_WIDTH)?,
            num_attention_heads: fields.size("num_attention_heads", MOST_PARTS)?,
            num_key_value_heads: fields.size("num_key_value_heads", MOST_PARTS)?,
            head_dim: fields.size("head_dim", MOST_PARTS)?,
            num_local_experts: fields.size("num_local_experts", MOST_PARTS)?,
            num_experts_per_tok: fields.experts_per_token()?,
            vocab_size: fields.size("vocab_size", MOST_TOKENS)?,
            sliding_window: fields.size("sliding_window", MOST_POSITIONS)?,
            sliding: fields.layer_types(layers)?,
            max_position_embeddings: fields.size("max_position_embeddings", MOST_POSITIONS)?,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-5, f64::MIN_POSITIVE..=1.0)?,
            swiglu_limit: fields.number("swiglu_limit", 7.0, f64::MIN_POSITIVE..=1e6)?,
            rope: fields.rope()?,
            raw: raw.clone(),
        };
        config.check()?;
        fields.check_fixed()?;
        Ok(config)
    }

    /// Checks that the sizes go together.
    fn check(&self) -> Result<()> {
        ensure!(
            self.num_attention_heads
                .is_multiple_of(self.num_key_value_heads),
            "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(
            self.head_dim.is_multiple_of(2),
            "head_dim ({}) is odd",
            self.head_dim
        );
        ensure!(
            self.num_experts_per_tok <= self.num_local_experts,
            "num_experts_per_tok ({}) exceeds num_local_experts ({})",
            self.num_experts_per_tok,
            self.num_local_experts
        );
        ensure!(
            self.parameters() <= MOST_PARAMETERS,
            "its sizes make a model of {:.1e} parameters, more than there can be: num_hidden_layers {}, hidden_size {}, \
             intermediate_size {}, num_local_experts {}, vocab_size {}",
            self.parameters() as f64,
            self.num_hidden_layers,
            self.hidden_size,
            self.intermediate_size,
            self.num_local_experts,
            self.vocab_size
        );
        Ok(())
    }

    /// The approximate number of parameters.
    fn parameters(&self) -> u128 {
        let wide = |size: usize| size as u128;
        let hidden = wide(self.hidden_size);
        let experts = 3 * wide(self.num_local_experts) * wide(self.intermediate_size);
        let heads = 2 * (wide(self.attention_width()) + wide(self.kv_width()));
        hidden * (2 * wide(self.vocab_size) + wide(self.num_hidden_layers) * (experts + heads))
    }

    /// The width of all query heads together.
    pub fn attention_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// The width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn golden(form: &str) -> Config {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/tiny");
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

    fn error(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut raw = golden("model_mxfp4").raw;
        change(&mut raw);
        format!("{:#}", Config::parse(Value::Object(raw)).unwrap_err())
    }

    /// Every field, with what it cannot be.
    #[test]
    fn what_is_wrong_is_named() {
        let wrong = json!("many");
        for (key, values) in [
            ("model_type", vec![json!("llama"), json!(3), json!(null)]),
            ("num_hidden_layers", vec![json!(MOST_LAYERS + 1)]),
            ("hidden_size", vec![json!(MOST_WIDTH + 1)]),
            ("intermediate_size", vec![json!(MOST_WIDTH + 1)]),
            ("num_attention_heads", vec![json!(MOST_PARTS + 1), json!(3)]),
            ("num_key_value_heads", vec![json!(MOST_PARTS + 1), json!(3)]),
            ("head_dim", vec![json!(MOST_PARTS + 1), json!(15)]),
            ("num_local_experts", vec![json!(MOST_PARTS + 1), json!(1)]),
            ("num_experts_per_tok", vec![json!(9), json!(1)]),
            ("vocab_size", vec![json!(MOST_TOKENS + 1)]),
            ("sliding_window", vec![json!(MOST_POSITIONS + 1)]),
            ("max_position_embeddings", vec![json!(MOST_POSITIONS + 1)]),
        ] {
            let sizes = match key {
                "model_type" => vec![],
                _ => vec![
                    json!(0),
                    json!(-3),
                    json!(2.5),
                    json!(u64::MAX),
                    json!(1e30),
                    json!(null),
                    json!([4]),
                    wrong.clone(),
                ],
            };
            for value in values.into_iter().chain(sizes) {
                let text = error(|raw| drop(raw.insert(key.to_owned(), value.clone())));
                assert!(text.contains(key), "{key} {value}: {text}");
            }
            let text = error(|raw| {
                raw.shift_remove(key);
                raw.shift_remove("experts_per_token");
            });
            assert!(text.contains(key), "{key}: {text}");
        }
        for (key, values) in [
            (
                "swiglu_limit",
                vec![json!(-7), json!(0), json!(1e300), wrong.clone()],
            ),
            ("swiglu_alpha", vec![json!(1.5), wrong.clone()]),
            (
                "rms_norm_eps",
                vec![json!(0), json!(-1e-5), json!(2), wrong.clone()],
            ),
            (
                "rope_theta",
                vec![json!(0), json!(1), json!(-150_000), wrong.clone()],
            ),
            ("attention_bias", vec![json!(false), json!("yes")]),
            ("attention_dropout", vec![json!(0.1), wrong.clone()]),
            ("hidden_act", vec![json!("gelu"), json!(1)]),
            ("tie_word_embeddings", vec![json!(true), json!("no")]),
            ("partial_rotary_factor", vec![json!(0.5)]),
            (
                "layer_types",
                vec![
                    json!([]),
                    json!("full_attention"),
                    json!(["a", "b", "c", "d"]),
                    json!([1, 2, 3, 4]),
                ],
            ),
            (
                "rope_scaling",
                vec![
                    json!("yarn"),
                    json!({"rope_type": "linear", "factor": 2.0}),
                    json!({"rope_type": 3}),
                ],
            ),
            (
                "quantization_config",
                vec![json!({"quant_method": "fp8"}), json!({}), json!("mxfp4")],
            ),
        ] {
            for value in values {
                let text = error(|raw| drop(raw.insert(key.to_owned(), value.clone())));
                assert!(text.contains(key), "{key} {value}: {text}");
            }
        }
        for (key, values) in [
            (
                "factor",
                vec![json!(0.5), json!(-32), json!(1e300), json!(null)],
            ),
            ("beta_fast", vec![json!(0), json!(-1), json!(0.5)]),
            ("beta_slow", vec![json!(0), json!(-1), json!(64)]),
            (
                "original_max_position_embeddings",
                vec![json!(0), json!(-1), json!(1e300)],
            ),
            ("truncate", vec![json!("no"), json!(0)]),
            ("attention_factor", vec![json!(1.0)]),
            ("mscale", vec![json!(1.0)]),
            ("mscale_all_dim", vec![json!(1.0)]),
            ("rope_theta", vec![json!(0.5)]),
            ("long_factor", vec![json!([1.0])]),
        ] {
            for value in values {
                let text = error(|raw| raw["rope_scaling"][key] = value.clone());
                assert!(
                    text.contains(&format!("rope_scaling.{key}")),
                    "{key} {value}: {text}"
                );
            }
        }
        let large = [
            ("num_hidden_layers", 4096),
            ("hidden_size", 1 << 20),
            ("intermediate_size", 1 << 20),
        ];
        let text = error(|raw| {
            raw.shift_remove("layer_types");
            for (key, value) in large {
                raw.insert(key.to_owned(), value.into());
            }
        });
        assert!(text.contains("more than there can be"), "{text}");
    }

    /// Without a word about positions, transformers takes the YaRN of the published models.
    #[test]
    fn what_is_not_said_is_as_in_transformers() {
        let mut raw = golden("model_bf16").raw;
        raw.shift_remove("rope_parameters");
        raw.insert("rope_theta".to_owned(), json!(150_000));
        let config = Config::parse(Value::Object(raw.clone())).unwrap();
        assert_eq!(config.rope, golden("model_bf16").rope);
        raw.insert("rope_scaling".to_owned(), Value::Null);
        let error = Config::parse(Value::Object(raw.clone())).unwrap_err();
        assert!(
            error.to_string().contains("rope_scaling is null"),
            "{error}"
        );
        raw.insert("rope_scaling".to_owned(), json!({"rope_type": "default"}));
        assert_eq!(Config::parse(Value::Object(raw)).unwrap().rope.yarn, None);
    }
}
