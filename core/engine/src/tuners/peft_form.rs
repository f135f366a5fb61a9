//! Tuners whose additions are a LoRA as PEFT has it: then files, export and answers are those of any LoRA, and do not need the tuner.

use super::MadeTuner;
use anyhow::Result;
use apus_base::limits::MAX_RANK;
use apus_components::config::TUNER;
use apus_components::registry::Spec;
use apus_model::model::{Addition, Init, LoraSettings, LowRank, Numbers, Targets};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// PEFT's names of the parameters of a layer.
const NAMES: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// An update and its rank.
type Ranked = (LowRank, usize);

/// The tuner that a run has of which nothing is said, with the settings that are flags, LoRA+'s ratio of learning rates, and the
/// patterns of targets with other ranks and alphas.
pub fn lora(
    settings: &LoraSettings,
    lr_ratio: Option<f64>,
    [ranks, alphas]: [Map<String, Value>; 2],
) -> Spec {
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
        ("rank_pattern", Value::Object(ranks)),
        ("alpha_pattern", Value::Object(alphas)),
    ];
    Spec {
        name: TUNER.to_owned(),
        options: options
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    }
}

/// The tuner whose updates begin with a part of the weight: with how, and in how many iterations.
pub fn pissa(
    settings: &LoraSettings,
    lr_ratio: Option<f64>,
    (start, niter): (&str, Option<usize>),
) -> Spec {
    let options = [
        ("rank", json!(settings.rank)),
        ("alpha", json!(settings.alpha)),
        ("use_rslora", json!(settings.use_rslora)),
        ("start", json!(start)),
        ("niter", json!(niter)),
        ("lr_ratio", json!(lr_ratio.unwrap_or(1.0))),
    ];
    Spec {
        name: "pissa".to_owned(),
        options: options
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    }
}

/// The patterns of these targets: their whole names.
pub fn patterns(targets: &Targets) -> [Map<String, Value>; 2] {
    let own = || targets.own.iter();
    [
        own()
            .map(|(name, own)| (name.clone(), json!(own.rank)))
            .collect(),
        own()
            .map(|(name, own)| (name.clone(), json!(own.alpha)))
            .collect(),
    ]
}

/// The settings of a LoRA, if that is what a tuner has added: updates under PEFT's names with one dropout, all of them DoRA or none.
/// Rank, alpha and initialisation are named as the tuner's `peft_config` does, if it does; what has others comes beside them.
///
/// # Errors
/// The tuner's own.
pub fn lora_settings(
    tuner: &MadeTuner,
    additions: &[Addition],
    seed: u64,
) -> Result<Option<(LoraSettings, BTreeMap<String, Numbers>)>> {
    let found: Option<Vec<Ranked>> = additions.iter().map(as_in_peft).collect();
    let Some((found, (update, rank))) = found.and_then(common) else {
        return Ok(None);
    };
    let peft = tuner.context("peft_config", tuner.component.peft_config())?;
    let number = |key: &str| peft.get(key).and_then(Value::as_f64);
    let use_rslora = peft.get("use_rslora") == Some(&Value::Bool(true));
    let alpha = |update: &LowRank, rank: usize| {
        let alpha = update.scale * LoraSettings::divisor(rank, use_rslora);
        // A scale is a quotient, which multiplied again may be off by its last bit.
        match (alpha - alpha.round()).abs() <= 1e-12 * alpha.abs() {
            true => alpha.round(),
            false => alpha,
        }
    };
    let said = peft.get("r").and_then(Value::as_u64);
    let said = said.and_then(|r| usize::try_from(r).ok());
    let settings = LoraSettings {
        rank: said.filter(|r| (1..=MAX_RANK).contains(r)).unwrap_or(rank),
        alpha: number("lora_alpha").unwrap_or_else(|| alpha(&update, rank)),
        dropout: update.dropout,
        use_rslora,
        use_dora: update.magnitude.is_some(),
        init: match peft.get("init_lora_weights").and_then(Value::as_str) {
            Some("gaussian") => Init::Gaussian,
            _ => Init::Kaiming,
        },
        seed,
    };
    let mut own = BTreeMap::new();
    for (addition, (update, rank)) in additions.iter().zip(&found) {
        let as_settings = LoraSettings {
            rank: *rank,
            ..settings
        };
        let same_scale = (as_settings.scale() - update.scale).abs() <= 1e-9 * update.scale.abs();
        if *rank != settings.rank || !same_scale {
            let numbers = Numbers {
                rank: *rank,
                alpha: match same_scale {
                    true => settings.alpha,
                    false => alpha(update, *rank),
                },
            };
            own.insert(addition.target.clone(), numbers);
        }
    }
    Ok(Some((settings, own)))
}

/// The update of an addition with its rank, if its parameters have PEFT's names.
fn as_in_peft(addition: &Addition) -> Option<Ranked> {
    let update = addition.low_rank?;
    let places = [Some(update.a), Some(update.b), update.magnitude];
    let named = places.iter().zip(NAMES).all(|(place, name)| {
        place.is_none_or(|place| addition.tensors[place].0.name.ends_with(name))
    });
    let rank = addition.rank().filter(|rank| *rank <= MAX_RANK)?;
    named.then_some((update, rank))
}

/// The updates and the first of them, if they are such as one adapter of PEFT can have.
fn common(all: Vec<Ranked>) -> Option<(Vec<Ranked>, Ranked)> {
    let first = *all.first()?;
    let same = |(update, _): &Ranked| update.is_like(&first.0);
    all.iter().all(same).then_some((all, first))
}
