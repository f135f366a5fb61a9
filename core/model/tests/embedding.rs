//! An embedding in host memory.

use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, ExpertsDtype, LoadOptions, Training};
use apus_model::synthetic::{self, SyntheticWeights};
use candle_core::{DType, Device};

fn model(training: Training) -> CausalLm {
    let config = synthetic::config("gpt-oss-20b").unwrap();
    let mut raw = config.raw;
    for (key, value) in [
        ("hidden_size", 32),
        ("intermediate_size", 32),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 16),
        ("num_local_experts", 4),
        ("vocab_size", 50),
    ] {
        raw.insert(key.to_owned(), value.into());
    }
    raw.insert(
        "layer_types".to_owned(),
        serde_json::json!(["full_attention"]),
    );
    let config = ModelConfig::parse(raw.into()).unwrap();
    let source = SyntheticWeights::new(&config, 1);
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        experts: ExpertsDtype::Mxfp4,
        training,
        sharding: None,
    };
    CausalLm::load(&config, &source, &options, |_| {}).unwrap()
}

#[test]
fn a_trained_embedding_stays() {
    let saved = Training::Adapters(vec!["model.embed_tokens".to_owned()]);
    for training in [Training::Full, saved] {
        let error = model(training).offload_embedding().unwrap_err();
        assert!(error.to_string().contains("embed_tokens"), "{error}");
    }
    let mut frozen = model(Training::Adapters(Vec::new()));
    frozen.offload_embedding().unwrap();
    assert_eq!(frozen.decoder().embedding.offloaded_bytes(), None);
}
