//! From a configuration to what a run has to have in common with the checkpoint that it goes on from.

use super::super::terms::Terms;
use super::super::trained_part::AdapterForm;
use super::{ModelPlace, Ready, optimizer};
use crate::setup::model_files;
use anyhow::Result;
use apus_base::checksums::sampled;
use apus_components::config::{Resolved, SftConfig, TrainType};
use apus_data::data::cache::Fingerprint;
use apus_model::adapter::{PeftConfig, TunedConfig};
use apus_model::nn::Param;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// The terms of a run, but for those of its data and length.
///
/// # Errors
/// Files of the model that cannot be read, an optimizer that there is no component for.
pub fn terms(
    resolved: &Resolved<SftConfig>,
    args: &Map<String, Value>,
    place: &ModelPlace,
    ready: &Ready,
) -> Result<Terms> {
    let config = &resolved.config;
    let mut terms = Terms::default();
    terms.put("train_type", config.train_type.as_str());
    terms.put("trained", trained(ready.model.params()));
    match &ready.adapter {
        Some(AdapterForm::LowRank(peft)) => {
            let mut of_adapter = adapter(peft);
            if let (Value::Object(fields), TrainType::Tuner(spec)) =
                (&mut of_adapter, &config.train_type)
            {
                fields.insert("tuner".to_owned(), json!(spec.name));
                fields.insert("options".to_owned(), json!(spec.options));
            }
            terms.put("adapter", of_adapter);
            terms.put("lora_dropout", peft.lora_dropout);
        }
        Some(AdapterForm::Tuned(config)) => terms.put("adapter", tuned(config)),
        None => {}
    }
    if ready.adapter.is_some() {
        // A model that is trained whole is in the checkpoint itself.
        terms.put("model", json!({ "sha256": model_hash(config, place)? }));
    }
    let of_step = config.per_device_train_batch_size * config.accumulation();
    terms.put("streaming", config.streaming);
    terms.put("examples_per_step", of_step);
    terms.put("sampler", serde_json::to_value(config.sampler_spec())?);
    terms.put("data_seed", config.data_seed);
    let (optimizer, _) = optimizer(&resolved.config, &|flag| resolved.origin(flag))?;
    terms.put("optimizer", serde_json::to_value(optimizer)?);
    terms.put(
        "lr_scheduler",
        serde_json::to_value(config.schedule_spec())?,
    );
    terms.put("lorap_lr_ratio", json!(config.lorap_lr_ratio));
    terms.put_flags(args);
    Ok(terms)
}

/// What of an adapter its weights do not tell.
pub fn adapter(peft: &PeftConfig) -> Value {
    let mut terms = json!({
        "lora_rank": peft.r,
        "lora_alpha": peft.lora_alpha,
        "use_rslora": peft.use_rslora,
        "use_dora": peft.use_dora,
    });
    // Checkpoints of runs without patterns have no such keys.
    if !peft.patterns.is_empty() {
        terms["rank_pattern"] = peft.patterns.ranks_json();
        terms["alpha_pattern"] = peft.patterns.alphas_json();
    }
    terms
}

/// What of a tuner its parameters do not tell.
pub fn tuned(config: &TunedConfig) -> Value {
    json!({ "tuner": config.name, "options": config.options })
}

/// Names and shapes of what is trained.
fn trained(params: &[Arc<Param>]) -> Value {
    let mut shapes: Vec<(String, Vec<usize>)> = params
        .iter()
        .map(|param| (param.name().to_owned(), param.value().dims().to_vec()))
        .collect();
    shapes.sort();
    let mut hash = Fingerprint::blank();
    hash.text(&format!("{shapes:?}"));
    let values = shapes
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>());
    json!({"tensors": shapes.len(), "values": values.sum::<usize>(), "sha256": hash.hex()})
}

/// The model that is adapted: a hash over samples of its files, which may lie elsewhere than before, or on another host.
///
/// # Errors
/// A file cannot be read.
pub fn model_hash(config: &SftConfig, place: &ModelPlace) -> Result<String> {
    match &place.dir {
        Some(dir) => sampled(model_files(dir)?.iter().map(PathBuf::as_path)),
        None => {
            let mut hash = Fingerprint::blank();
            hash.text(&format!("{} {}", config.model, config.seed));
            Ok(hash.hex())
        }
    }
}
