//! Tuners whose additions are a LoRA as PEFT has it: then files, export and answers are those of any LoRA, and do not need the tuner.

use super::MadeTuner;
use anyhow::{Result, ensure};
use apus_base::limits::MAX_RANK;
use apus_components::config::TUNER;
use apus_components::registry::Spec;
use apus_model::model::{Addition, Init, LoraSettings, LowRank};
use serde_json::{Value, json};

/// PEFT's names of the parameters of a layer.
const NAMES: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// The tuner that a run has of which nothing is said, with the settings that are flags, and LoRA+'s ratio of learning rates.
pub fn lora(settings: &LoraSettings, lr_ratio: Option<f64>) -> Spec {
    let start = match settings.init {
        Init::Kaiming => "kaiming_uniform",
        Init::Gaussian => "gaussian",
    };
    let options = [
        ("rank", json!(settings.rank)),
        ("alpha", json!(settings.alpha)),
        ("dropout", json!(settings.dropout)),
        ("use_rslora", json!(settings.use_rslora)),
        ("use_dora", json!(settings.use_dora)),
        ("init_weights", json!(start)),
        ("lr_ratio", json!(lr_ratio.unwrap_or(1.0))),
    ];
    Spec {
        name: TUNER.to_owned(),
        options: options
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    }
}

/// The settings of a LoRA, if that is what a tuner has added: updates under PEFT's names with one rank, scale and dropout. Scale and
/// initialisation are named as the tuner's `peft_config` does, if it does.
///
/// # Errors
/// The tuner's own, or a `peft_config` that says another scale.
pub fn lora_settings(
    tuner: &MadeTuner,
    additions: &[Addition],
    seed: u64,
) -> Result<Option<LoraSettings>> {
    let found: Option<Vec<(LowRank, usize)>> = additions.iter().map(as_in_peft).collect();
    let Some((update, rank)) = found.as_deref().and_then(common) else {
        return Ok(None);
    };
    let peft = tuner.context("peft_config", tuner.component.peft_config())?;
    let number = |key: &str| peft.get(key).and_then(Value::as_f64);
    let use_rslora = peft.get("use_rslora") == Some(&Value::Bool(true));
    let whole = match use_rslora {
        true => (rank as f64).sqrt(),
        false => rank as f64,
    };
    let settings = LoraSettings {
        rank,
        alpha: number("lora_alpha").unwrap_or(update.scale * whole),
        dropout: update.dropout,
        use_rslora,
        use_dora: update.magnitude.is_some(),
        init: match peft.get("init_lora_weights").and_then(Value::as_str) {
            Some("gaussian") => Init::Gaussian,
            _ => Init::Kaiming,
        },
        seed,
    };
    ensure!(
        (settings.scale() - update.scale).abs() <= 1e-9 * update.scale.abs(),
        "{}, peft_config: with lora_alpha {} the scale is {}, and what it computes has {}",
        tuner.label,
        settings.alpha,
        settings.scale(),
        update.scale
    );
    Ok(Some(settings))
}

/// The update of an addition with its rank, if its parameters have PEFT's names.
fn as_in_peft(addition: &Addition) -> Option<(LowRank, usize)> {
    let update = addition.low_rank?;
    let places = [Some(update.a), Some(update.b), update.magnitude];
    let named = places.iter().zip(NAMES).all(|(place, name)| {
        place.is_none_or(|place| addition.tensors[place].0.name.ends_with(name))
    });
    let rank = addition.rank().filter(|rank| *rank <= MAX_RANK)?;
    named.then_some((update, rank))
}

/// What all updates have in common.
fn common(all: &[(LowRank, usize)]) -> Option<(LowRank, usize)> {
    let (first, rank) = *all.first()?;
    let same = |(update, of): &(LowRank, usize)| update.is_like(&first) && *of == rank;
    all.iter().all(same).then_some((first, rank))
}
