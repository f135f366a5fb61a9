//! Configurations of FSDP: transformers' words, and ms-swift's `fsdp2` or JSON with the keys `fsdp` and `fsdp_config`.

use super::Asked;
use crate::config::SftConfig;
use crate::similar::did_you_mean;
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

/// How much each strategy shards: optimizer state and gradients, the parameters too.
const STRATEGIES: &[(&str, bool, bool)] = &[
    ("fsdp2", true, true),
    ("full_shard", true, true),
    ("hybrid_shard", true, true),
    ("shard_grad_op", true, false),
    ("hybrid_shard_zero2", true, false),
    ("no_shard", false, false),
];

/// Words that may stand beside a strategy.
const BESIDE: &[&str] = &["auto_wrap", "offload"];

/// The words that may stand in place of a configuration.
pub(super) fn words() -> Vec<&'static str> {
    let strategies = STRATEGIES.iter().map(|(name, ..)| *name);
    strategies.chain(BESIDE.iter().copied()).collect()
}

/// Whether a text is several of the words, or `true`, which transformers takes for `full_shard`.
pub(super) fn is_words(text: &str) -> bool {
    let mut all = text.split_whitespace();
    text == "true" || all.all(|word| words().contains(&word))
}

/// What `fsdp` and `fsdp_config` ask for, if `fsdp` is given.
///
/// # Errors
/// A word that there is not, or words that contradict each other.
pub(super) fn asked(config: &SftConfig) -> Result<Option<Asked>> {
    let none = Map::new();
    let options = config.fsdp_config.as_object().unwrap_or(&none);
    let (text, options) = match &config.fsdp {
        Value::Null if options.is_empty() => return Ok(None),
        Value::Null => bail!(
            "fsdp_config is given and fsdp is not, which says what is sharded; give --fsdp full_shard"
        ),
        Value::Object(table) => of_table(table, options)?,
        Value::String(text) => (text.clone(), options),
        other => bail!(
            "fsdp is {other}, expected {}, or JSON with the key fsdp",
            words().join(", ")
        ),
    };
    let text = match text.as_str() {
        "true" => "full_shard".to_owned(),
        _ => text,
    };
    let given: Vec<&str> = text.split_whitespace().collect();
    for word in &given {
        ensure!(
            words().contains(word),
            "fsdp has {word:?}, expected {}{}",
            words().join(", "),
            did_you_mean(word, &words())
        );
    }
    let mut strategies = STRATEGIES.iter().filter(|(name, ..)| given.contains(name));
    let (_, optimizer, whole) = match (strategies.next(), strategies.next()) {
        (Some(first), Some(second)) => bail!(
            "fsdp is {text:?}: {} and {} contradict each other; keep one of them",
            first.0,
            second.0
        ),
        (Some(strategy), None) => strategy,
        (None, _) if given == ["offload"] => bail!(
            "fsdp is \"offload\" alone, which says where weights lie and not what is sharded; give --fsdp full_shard or \
             shard_grad_op"
        ),
        (None, _) => &("full_shard", true, true),
    };
    let by = format!("fsdp {text}");
    let mut notes = Vec::new();
    if given.contains(&"offload") {
        notes.push(format!(
            "{by}: nothing is offloaded to host memory but what --offload_embedding says"
        ));
    }
    if given.iter().any(|word| word.starts_with("hybrid")) {
        notes.push(format!(
            "{by}: what is sharded is so over all ranks, not inside each host alone"
        ));
    }
    if flag(options, "activation_checkpointing")? == Some(true) && !config.gradient_checkpointing {
        notes.push(
            "fsdp_config: activation_checkpointing is true and gradient_checkpointing false: layers keep everything; \
             --gradient_checkpointing true keeps their inputs alone"
                .to_owned(),
        );
    }
    let base = *whole && flag(options, "reshard_after_forward")?.unwrap_or(true);
    Ok(Some(Asked {
        by,
        optimizer: *optimizer,
        base,
        notes,
    }))
}

/// Words and options of ms-swift's JSON, or of a configuration file of accelerate, which names the strategy among the options.
fn of_table<'a>(
    table: &'a Map<String, Value>,
    options: &'a Map<String, Value>,
) -> Result<(String, &'a Map<String, Value>)> {
    let options = match table.get("fsdp_config") {
        None => options,
        Some(Value::Object(own)) => own,
        Some(other) => bail!("fsdp: fsdp_config is {other}, expected an object"),
    };
    let strategy = || option(options, "sharding_strategy").and_then(Value::as_str);
    let text = match table.get("fsdp") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(words)) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            words.join(" ")
        }
        Some(other) => {
            bail!("fsdp: fsdp is {other}, expected text such as \"full_shard auto_wrap\"")
        }
        None => strategy()
            .unwrap_or("full_shard auto_wrap")
            .to_ascii_lowercase(),
    };
    Ok((text, options))
}

/// An option, whose name may begin with `fsdp_`.
fn option<'a>(options: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    options
        .get(name)
        .or_else(|| options.get(&format!("fsdp_{name}")))
}

/// An option that is true or false.
fn flag(options: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    match option(options, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => match other.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "full_shard") => Ok(Some(true)),
            Some("false" | "shard_grad_op") => Ok(Some(false)),
            _ => bail!("fsdp_config: {name} is {other}, expected true or false"),
        },
    }
}
