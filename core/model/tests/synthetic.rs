//! A synthetic model computes with numbers of a usual size.

use apus_model::families::ModelConfig;
use apus_model::model::{CausalLm, LoadOptions};
use apus_model::nn::ForwardOptions;
use apus_model::ops::SeqLayout;
use apus_model::synthetic::{SyntheticWeights, config};
use candle_core::{Device, Tensor};
use serde_json::Value;

#[test]
fn activations_stay_sane_and_every_expert_gets_tokens() {
    let mut raw = config("gpt-oss-20b").unwrap().raw;
    for (key, value) in [
        ("hidden_size", 128),
        ("intermediate_size", 128),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 2),
        ("head_dim", 32),
        ("num_local_experts", 16),
        ("vocab_size", 1000),
    ] {
        raw.insert(key.to_owned(), value.into());
    }
    let config = ModelConfig::parse(Value::Object(raw)).unwrap();
    let options = LoadOptions::frozen(&Device::Cpu);
    let model = CausalLm::load(
        &config,
        &SyntheticWeights::new(&config, 1),
        &options,
        |_| {},
    )
    .unwrap();
    let ids: Vec<u32> = (0..256).map(|i| i * 37 % 1000).collect();
    let ids = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
    let seqs = SeqLayout::new(&[256], &Device::Cpu).unwrap();
    let options = ForwardOptions {
        aux_coef: 1.0,
        ..Default::default()
    };
    let (hidden, pass) = model.decoder().forward(&ids, &seqs, &options).unwrap();
    let rms = |x: &Tensor| {
        let square = x.sqr().unwrap().mean_all().unwrap();
        square.to_scalar::<f32>().unwrap().sqrt()
    };
    assert!((0.8..4.0).contains(&rms(&hidden)), "rms {}", rms(&hidden));
    // A balanced router has an auxiliary loss near the number of experts a token uses.
    let aux = pass.aux_loss().unwrap();
    assert!((3.9..4.8).contains(&aux), "auxiliary loss {aux}");
}
