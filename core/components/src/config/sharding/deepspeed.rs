//! Configurations of DeepSpeed: by the names of ms-swift's, or as DeepSpeed's own JSON.

use super::Asked;
use crate::config::{SftConfig, TorchDtype};
use anyhow::{Result, bail, ensure};
use apus_sdk::Kind;
use apus_sdk::built_in::built_ins;
use serde_json::{Map, Value, json};

/// ms-swift's configurations: their names, stages, and whether state or weights are to lie in host memory.
const NAMED: &[(&str, u64, bool)] = &[
    ("zero0", 0, false),
    ("zero1", 1, false),
    ("zero2", 2, false),
    ("zero3", 3, false),
    ("zero2_offload", 2, true),
    ("zero3_offload", 3, true),
];

/// The keys of a configuration of which something is read.
const READ: &[&str] = &[
    "zero_optimization",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "amp",
];

/// The names that may stand in place of a configuration.
pub(super) fn words() -> Vec<&'static str> {
    NAMED.iter().map(|(name, ..)| *name).collect()
}

pub(super) fn is_word(text: &str) -> bool {
    words().contains(&text)
}

/// What `deepspeed` asks for, if it is given.
///
/// # Errors
/// A stage that there is not, or values that differ from the flags'.
pub(super) fn asked(config: &SftConfig) -> Result<Option<Asked>> {
    let (by, stage, offload, mut notes) = match &config.deepspeed {
        Value::Null => return Ok(None),
        Value::Object(table) => {
            check_values(config, table)?;
            let stage = stage(table)?;
            let notes = Vec::from_iter(unused(table));
            (
                format!("deepspeed with stage {stage}"),
                stage,
                offloads(table),
                notes,
            )
        }
        other => match NAMED.iter().find(|(name, ..)| other == name) {
            Some(&(name, stage, offload)) => {
                (format!("deepspeed {name}"), stage, offload, Vec::new())
            }
            None => bail!(
                "deepspeed is {other}, expected {}, or a configuration of DeepSpeed's as JSON or as the path of a file",
                words().join(", ")
            ),
        },
    };
    if offload {
        notes.push(format!(
            "{by}: nothing is offloaded to host memory but what --offload_embedding says"
        ));
    }
    Ok(Some(Asked {
        by,
        optimizer: stage >= 1,
        base: stage == 3,
        notes,
    }))
}

fn stage(table: &Map<String, Value>) -> Result<u64> {
    match table.get("zero_optimization") {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Object(zero)) => match zero.get("stage") {
            None => Ok(0),
            Some(stage) => match stage.as_u64() {
                Some(stage @ 0..=3) => Ok(stage),
                _ => bail!("deepspeed: zero_optimization.stage is {stage}, expected 0, 1, 2 or 3"),
            },
        },
        Some(other) => {
            bail!("deepspeed: zero_optimization is {other}, expected an object with stage")
        }
    }
}

fn offloads(table: &Map<String, Value>) -> bool {
    let zero = table.get("zero_optimization");
    let devices = ["offload_optimizer", "offload_param"]
        .map(|part| zero.and_then(|zero| zero.get(part)?.get("device")?.as_str()));
    devices.into_iter().flatten().any(|device| device != "none")
}

/// A line that names the keys of which nothing is read.
fn unused(table: &Map<String, Value>) -> Option<String> {
    let is_read = |key: &str| READ.contains(&key) || key.starts_with('_');
    let unused: Vec<&str> = table
        .keys()
        .map(String::as_str)
        .filter(|key| !is_read(key))
        .collect();
    (!unused.is_empty()).then(|| {
        format!(
            "deepspeed: not used, as it is about DeepSpeed's own engine: {}",
            unused.join(", ")
        )
    })
}

/// Refuses values that the run would not have, as transformers does: DeepSpeed's engine would go by them, and not by the flags.
fn check_values(config: &SftConfig, table: &Map<String, Value>) -> Result<()> {
    let mut differ = Vec::new();
    let mut hold = |key: &str, flag: &str, here: Value| {
        differ.extend(difference(table, key, flag, &here));
    };
    let size = config.per_device_train_batch_size;
    hold(
        "train_micro_batch_size_per_gpu",
        "per_device_train_batch_size",
        json!(size),
    );
    let accumulation = config.accumulation();
    hold(
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
        json!(accumulation),
    );
    hold(
        "gradient_clipping",
        "max_grad_norm",
        json!(config.max_grad_norm),
    );
    hold(
        "optimizer.params.lr",
        "learning_rate",
        json!(config.base_lr()),
    );
    let betas = json!([config.adam_beta1, config.adam_beta2]);
    hold("optimizer.params.betas", "adam_beta1 and adam_beta2", betas);
    hold(
        "optimizer.params.eps",
        "adam_epsilon",
        json!(config.adam_epsilon),
    );
    hold(
        "optimizer.params.weight_decay",
        "weight_decay",
        json!(config.weight_decay),
    );
    if let Some(dtype) = config
        .torch_dtype
        .filter(|dtype| *dtype != TorchDtype::Auto)
    {
        let flag = format!("with torch_dtype {dtype}");
        hold("bf16.enabled", &flag, json!(dtype == TorchDtype::Bfloat16));
    }
    let by_device = "here, where CUDA computes in bfloat16 and the CPU in float32,";
    hold("fp16.enabled", by_device, json!(false));
    hold("amp.enabled", by_device, json!(false));
    ensure!(
        differ.is_empty(),
        "deepspeed does not fit the flags: {}. Give the same on both sides, or \"auto\" there",
        differ.join("; ")
    );
    check_optimizer(config, table)?;
    if let Some(scheduler) = table.get("scheduler") {
        bail!(
            "deepspeed: scheduler is {scheduler}, which DeepSpeed would take in place of lr_scheduler_type; take the section \
             out and name the schedule by --lr_scheduler_type"
        );
    }
    Ok(())
}

/// The value at a path of keys, unless it is for the flags to fill in.
fn value<'a>(table: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = table.get(keys.next()?)?;
    let found = keys.try_fold(first, |value, key| value.get(key))?;
    Some(found).filter(|value| !value.is_null() && *value != "auto")
}

fn difference(table: &Map<String, Value>, key: &str, flag: &str, here: &Value) -> Option<String> {
    let there = value(table, key)?;
    (!same(there, here)).then(|| format!("{key} is {there}, and {flag} {here}"))
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a.as_f64().zip(b.as_f64()).map_or(a == b, |(a, b)| a == b),
    }
}

/// The optimizer of the configuration has to be the one of the run; letters may be large or small.
fn check_optimizer(config: &SftConfig, table: &Map<String, Value>) -> Result<()> {
    let Some(kind) = value(table, "optimizer.type") else {
        return Ok(());
    };
    let name = match &config.optimizer {
        Some(spec) => spec.name.clone(),
        None => config.optim.clone(),
    };
    let is_called = |word: &str| {
        kind.as_str()
            .is_some_and(|kind| kind.eq_ignore_ascii_case(word))
    };
    let is_it = built_ins().into_iter().any(|known| {
        known.kind == Kind::Optimizer
            && is_called(known.name)
            && (known.name == name || known.aliases.contains(&name.as_str()))
    });
    ensure!(
        is_it || is_called(&name),
        "deepspeed: optimizer.type is {kind}, and the run has the optimizer {name}; take the section out, or name the \
         optimizer by --optimizer"
    );
    Ok(())
}

/// Holds the global batch of a configuration against that of the run.
///
/// # Errors
/// Another one.
pub(super) fn check_global_batch(config: &SftConfig, ranks: usize) -> Result<()> {
    let flag = "per_device_train_batch_size x gradient_accumulation_steps x ranks";
    let here = config.per_device_train_batch_size * config.accumulation() * ranks;
    if let Value::Object(table) = &config.deepspeed
        && let Some(difference) = difference(table, "train_batch_size", flag, &json!(here))
    {
        bail!("deepspeed does not fit the run of {ranks} ranks: {difference}. Give \"auto\" there");
    }
    Ok(())
}
