//! Turns an out-of-memory error of a card into one line: how full the card was, during what, and which settings to lower,
//! the cheapest first.

use anyhow::{Error, anyhow};
use apus_base::memory::gib;
use candle_core::Device;
use serde_json::{Map, Value};
use std::fmt;

/// What is going on, as a context of the errors in it: what can be lowered depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// A model is loaded; its name.
    Loading(String),
    /// An optimizer step, counted from 1.
    Step(u64),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading(model) => write!(f, "model {model}"),
            Self::Step(step) => write!(f, "step {step}"),
        }
    }
}

/// The names of the error in the driver and in cuBLAS. Several crates wrap these errors, but all keep the name in the text.
const NAMES: [&str; 2] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];

/// How much other processes may use before the line mentions them: a context alone takes about this much.
const CONTEXT: u64 = 1 << 30;

/// How full a card was, in bytes.
#[derive(Debug, Clone, Copy)]
struct Fill {
    /// The most that this process used.
    used: u64,
    /// The most that this process could have used.
    mine: u64,
    /// The memory of the card.
    total: u64,
}

/// Explains the error if it is one of memory, and returns any other one unchanged. `settings` are the run's flags with
/// their values.
pub fn explain(error: Error, device: &Device, settings: &Map<String, Value>) -> Error {
    let Some(place) = place(&error) else {
        return error;
    };
    let mut text = format!("out of memory on {}", apus_model::device::name(device));
    if !place.is_empty() {
        text += &format!(" at {}", place.join(", "));
    }
    if let Some(fill) = fill(device) {
        text += &format!(": {}", words(fill));
    }
    let lower = remedies(settings, error.downcast_ref());
    match lower.is_empty() {
        true => anyhow!(
            "{text}. Nothing in the settings makes it smaller: take a card with more memory"
        ),
        false => anyhow!("{text}. Lower, in this order: {}", lower.join("; ")),
    }
}

/// Whether this is an out-of-memory error of a card.
pub fn is(error: &Error) -> bool {
    place(error).is_some()
}

/// The contexts of an out-of-memory error, outermost first; `None` for another error.
fn place(error: &Error) -> Option<Vec<String>> {
    let parts: Vec<String> = error.chain().map(ToString::to_string).collect();
    let cause = parts
        .iter()
        .position(|part| NAMES.iter().any(|name| part.contains(name)))?;
    Some(parts.into_iter().take(cause).collect())
}

fn fill(device: &Device) -> Option<Fill> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let now = apus_model::device::memory(cuda).ok()?;
            Some(Fill {
                used: apus_model::device::peak_memory(cuda)?,
                mine: now.used + now.free,
                total: now.total,
            })
        }
        _ => None,
    }
}

fn words(fill: Fill) -> String {
    let mut text = format!(
        "{} in use, {} free of {}",
        gib(fill.used),
        gib(fill.mine.saturating_sub(fill.used)),
        gib(fill.total)
    );
    let others = fill.total.saturating_sub(fill.mine);
    if others > CONTEXT {
        text += &format!(" ({} are held by other processes)", gib(others));
    }
    text
}

/// The settings that can still be lowered, with their values: those of the weights while a model is loaded, those of
/// evaluations outside of a step.
fn remedies(settings: &Map<String, Value>, phase: Option<&Phase>) -> Vec<String> {
    let text = |name: &str| match settings.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) => "not set".to_owned(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let number = |name: &str| settings.get(name).and_then(Value::as_u64);
    let now = |advice: &str, name: &str| format!("{advice} (now {})", text(name));
    let mut list = Vec::new();
    if !matches!(phase, Some(Phase::Loading(_))) {
        let in_a_step = matches!(phase, Some(Phase::Step(_)));
        if !in_a_step && number("per_device_eval_batch_size").is_some_and(|n| n > 1) {
            list.push(now(
                "per_device_eval_batch_size",
                "per_device_eval_batch_size",
            ));
        }
        if number("per_device_train_batch_size").is_some_and(|size| size > 1) {
            list.push(now(
                "per_device_train_batch_size, with more gradient_accumulation_steps",
                "per_device_train_batch_size",
            ));
        }
        if settings.contains_key("max_length") {
            list.push(now("max_length", "max_length"));
        }
        if settings.get("gradient_checkpointing") == Some(&Value::Bool(false)) {
            list.push(now("gradient_checkpointing true", "gradient_checkpointing"));
        } else if !matches!(
            text("gradient_checkpointing_skip_layers").as_str(),
            "" | "0"
        ) {
            list.push(now(
                "gradient_checkpointing_skip_layers",
                "gradient_checkpointing_skip_layers",
            ));
        }
        if text("offload_embedding") == "false" {
            list.push(now("offload_embedding true", "offload_embedding"));
        }
    }
    if !matches!(text("experts_dtype").as_str(), "" | "mxfp4") {
        list.push(now("experts_dtype mxfp4", "experts_dtype"));
    }
    match text("train_type").as_str() {
        "lora" if number("lora_rank").is_some_and(|rank| rank > 1) => {
            list.push(now("lora_rank", "lora_rank"));
        }
        "full" => list.push(now("train_type lora", "train_type")),
        _ => {}
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use serde_json::json;

    fn settings(changes: Value) -> Map<String, Value> {
        let config = apus_components::config::SftConfig::default();
        let mut all = serde_json::to_value(config).unwrap();
        let all = all.as_object_mut().unwrap();
        all.extend(changes.as_object().unwrap().clone());
        all.clone()
    }

    fn driver() -> Error {
        candle_core::Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into())
            .into()
    }

    fn failed(error: Error, phase: Phase, inside: &[&'static str]) -> Error {
        let parts = inside.iter().rev();
        parts
            .fold(error, |error, &part| error.context(part))
            .context(phase)
    }

    #[test]
    fn a_step_that_does_not_fit() {
        let settings = settings(json!({
            "per_device_train_batch_size": 4, "max_length": 4096, "gradient_checkpointing_skip_layers": "auto",
            "offload_embedding": "false", "experts_dtype": "bf16", "lora_rank": 64,
        }));
        let error = failed(
            driver(),
            Phase::Step(3),
            &["micro-batch 0 of 16384 tokens", "layer 7"],
        );
        let text = format!("{:#}", explain(error, &Device::Cpu, &settings));
        assert_eq!(
            text,
            "out of memory on cpu at step 3, micro-batch 0 of 16384 tokens, layer 7. Lower, in this order: \
             per_device_train_batch_size, with more gradient_accumulation_steps (now 4); max_length (now 4096); \
             gradient_checkpointing_skip_layers (now auto); offload_embedding true (now false); experts_dtype mxfp4 (now bf16); lora_rank (now 64)"
        );
    }

    #[test]
    fn what_is_low_already_is_left_out() {
        let error = failed(driver(), Phase::Step(1), &[]);
        let text = explain(error, &Device::Cpu, &settings(json!({}))).to_string();
        assert!(
            text.ends_with("in this order: max_length (now not set); lora_rank (now 8)"),
            "{text}"
        );
        let full = settings(json!({"train_type": "full", "gradient_checkpointing": false}));
        let text = explain(failed(driver(), Phase::Step(1), &[]), &Device::Cpu, &full).to_string();
        assert!(
            text.contains("gradient_checkpointing true (now false); train_type lora (now full)"),
            "{text}"
        );
    }

    #[test]
    fn loading_names_what_weights_depend_on() {
        let error = failed(driver(), Phase::Loading("dir".to_owned()), &["layer 30"]);
        let settings = settings(json!({"experts_dtype": "bf16", "lora_rank": 1}));
        let text = explain(error, &Device::Cpu, &settings).to_string();
        assert!(
            text.ends_with(
                "at model dir, layer 30. Lower, in this order: experts_dtype mxfp4 (now bf16)"
            ),
            "{text}"
        );
        let none = explain(driver(), &Device::Cpu, &Map::new()).to_string();
        assert!(none.ends_with("take a card with more memory"), "{none}");
    }

    #[test]
    fn cublas_counts_and_other_errors_stay() {
        let cublas = Err::<(), _>(anyhow!("CUBLAS_STATUS_ALLOC_FAILED")).context("step 2");
        assert!(place(&cublas.unwrap_err()).is_some());
        let other = Err::<(), _>(anyhow!("something else")).context("step 2");
        let kept = explain(other.unwrap_err(), &Device::Cpu, &Map::new());
        assert_eq!(format!("{kept:#}"), "step 2: something else");
    }

    #[test]
    fn figures() {
        let gib = |n: u64| n << 30;
        let fill = Fill {
            used: gib(60),
            mine: gib(64),
            total: gib(80),
        };
        assert_eq!(
            words(fill),
            "60.00 GiB in use, 4.00 GiB free of 80.00 GiB (16.00 GiB are held by other processes)"
        );
        let alone = Fill {
            used: gib(79),
            mine: gib(79),
            total: gib(80),
        };
        assert_eq!(words(alone), "79.00 GiB in use, 0.0 MiB free of 80.00 GiB");
    }
}
