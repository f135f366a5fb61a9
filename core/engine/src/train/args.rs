//! `args.json`: the resolved configuration, as a run keeps it and shows it to trackers.

use crate::setup::lasting;
use apus_components::config::{SftConfig, values};
use apus_components::{plugin, secrets};
use serde_json::{Map, Value, json};

/// The resolved configuration as args.json holds it.
pub fn args(config: &SftConfig) -> Map<String, Value> {
    let mut args = values(config);
    args.insert(
        "gradient_accumulation_steps".to_owned(),
        json!(config.accumulation()),
    );
    args.insert("learning_rate".to_owned(), json!(config.base_lr()));
    args.insert("eval_strategy".to_owned(), json!(config.eval_strategy()));
    args.insert("eval_steps".to_owned(), json!(config.eval_steps()));
    args.insert("plugins".to_owned(), json!(plugin::records()));
    args.insert("model".to_owned(), json!(lasting(&config.model)));
    if let Some(tokenizer) = &config.tokenizer {
        args.insert("tokenizer".to_owned(), json!(lasting(tokenizer)));
    }
    args.insert("apus_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    secrets::forget_secrets(&mut args);
    args
}
