//! Tuners: which parameters one adds to a model, what is computed with them, and what it has trained, read from a folder.

mod adapter;
mod as_updates;
mod bound;
mod peft_form;

pub use adapter::{OpenedAdapter, TunedAdapter};
pub use bound::{Bound, additions};
pub use peft_form::{lora, lora_settings, patterns, pissa};

use anyhow::{Context, Result};
use apus_components::registry::{self, Named, Spec};
use apus_sdk::Tuner;
use std::sync::Arc;

/// A tuner that has been made.
pub type MadeTuner = Arc<Named<dyn Tuner>>;

/// Makes a tuner.
///
/// # Errors
/// There is none of this name, or options that it does not take.
pub fn make(spec: &Spec) -> Result<MadeTuner> {
    let made = registry::named(spec).with_context(|| {
        format!(
            "train_type {:?}: it is lora, full, or a tuner",
            spec.name.as_str()
        )
    })?;
    Ok(Arc::new(made))
}

#[cfg(test)]
mod tests;
