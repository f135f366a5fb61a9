//! What families read from config.json, and what they refuse.

use super::fields::{MOST_LAYERS, MOST_PARTS, MOST_POSITIONS, MOST_WIDTH};
use super::*;
use apus_base::limits::MOST_TOKENS;
use serde_json::json;

fn golden(form: &str) -> ModelConfig {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/tiny");
    ModelConfig::read(&Path::new(dir).join(form).join("config.json")).unwrap()
}

#[test]
fn both_spellings_say_the_same() {
    let (old, new) = (golden("model_mxfp4"), golden("model_bf16"));
    let layers = old.architecture.layers.iter();
    let sliding: Vec<bool> = layers.map(|l| l.attention.window.is_some()).collect();
    assert_eq!(sliding, [true, false, true, false]);
    assert_eq!(old.architecture, new.architecture);
}

fn error(change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut raw = golden("model_mxfp4").raw;
    change(&mut raw);
    format!("{:#}", ModelConfig::parse(Value::Object(raw)).unwrap_err())
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

#[test]
fn layers_share_the_size_of_heads() {
    let mut architecture = golden("model_bf16").architecture;
    architecture.layers[2].attention.heads.dim *= 2;
    let error = architecture.check().unwrap_err().to_string();
    assert!(error.contains("head_dim is 32 in layer 2"), "{error}");
}

/// Without a word about positions, transformers takes the YaRN of the published models.
#[test]
fn what_is_not_said_is_as_in_transformers() {
    let mut raw = golden("model_bf16").raw;
    raw.shift_remove("rope_parameters");
    raw.insert("rope_theta".to_owned(), json!(150_000));
    let config = ModelConfig::parse(Value::Object(raw.clone())).unwrap();
    assert_eq!(
        config.architecture.rope,
        golden("model_bf16").architecture.rope
    );
    raw.insert("rope_scaling".to_owned(), Value::Null);
    let error = ModelConfig::parse(Value::Object(raw.clone())).unwrap_err();
    assert!(
        error.to_string().contains("rope_scaling is null"),
        "{error}"
    );
    raw.insert("rope_scaling".to_owned(), json!({"rope_type": "default"}));
    let config = ModelConfig::parse(Value::Object(raw)).unwrap();
    assert_eq!(config.architecture.rope.yarn, None);
}
