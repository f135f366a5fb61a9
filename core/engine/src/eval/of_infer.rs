//! `apus infer --metric NAME` for metrics that read tokens: the model is measured on the same rows.

use anyhow::{Result, bail};
use apus_components::config::{
    Command, DatasetSpec, EvalConfig, FLAGS, InferConfig, Origin, Resolved, WrittenAt, values,
};
use apus_components::registry::{self, Named};
use apus_sdk::Metric;
use serde_json::Value;
use std::collections::BTreeMap;

/// Measures the model that answered, if one of the metrics reads tokens. The model is loaded again for it.
///
/// # Errors
/// As of [`run`](super::run).
pub fn of_infer(resolved: &Resolved<InferConfig>) -> Result<()> {
    let config = &resolved.config;
    let mut of_tokens = Vec::new();
    for spec in &config.metrics {
        let metric: Named<dyn Metric> = registry::named(spec)?;
        if !metric.component.reads_answers() {
            of_tokens.push(spec);
        }
    }
    let has_rows = !config.val_dataset.is_empty() || !config.dataset.is_empty();
    if of_tokens.is_empty() || !has_rows {
        return Ok(());
    }
    let (now, unset) = (values(config), values(&InferConfig::default()));
    let mut eval = EvalConfig {
        with_base: false,
        ..EvalConfig::default()
    };
    let mut given = BTreeMap::new();
    let shared = FLAGS
        .iter()
        .filter(|flag| flag.belongs_to(Command::Infer) && flag.belongs_to(Command::Sft));
    for flag in shared {
        if now.get(flag.name) != unset.get(flag.name) {
            let value = now.get(flag.name).cloned().unwrap_or_default();
            eval.run.insert(flag.name.to_owned(), value);
            let written = resolved.given.get(flag.name).cloned();
            let written = written.unwrap_or_else(|| WrittenAt {
                origin: Origin::CommandLine,
                place: format!("--{}", flag.name),
            });
            given.insert(flag.name.to_owned(), written);
        }
    }
    eval.run
        .insert("metrics".to_owned(), serde_json::to_value(of_tokens)?);
    if let Some(most) = config.val_dataset_sample {
        take(&mut eval, most)?;
    }
    super::run(&Resolved {
        config: eval,
        given,
        notes: Vec::new(),
    })
}

/// The first rows of the dataset.
fn take(eval: &mut EvalConfig, most: usize) -> Result<()> {
    for flag in ["val_dataset", "dataset"] {
        match eval.run.get_mut(flag).and_then(Value::as_array_mut) {
            Some(names) if names.is_empty() => {}
            Some(names) => {
                let [name] = names.as_mut_slice() else {
                    bail!(
                        "val_dataset_sample is given, several datasets, and a metric that reads tokens; take rows of each \
                         by FILE#N"
                    );
                };
                let spec: DatasetSpec = serde_json::from_value(name.take())?;
                *name = serde_json::to_value(spec.with_rows(most)?)?;
                return Ok(());
            }
            None => {}
        }
    }
    Ok(())
}
