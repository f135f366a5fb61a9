//! What callbacks have of their own: weights in place of the trained ones, and state that goes into checkpoints.

use super::Events;
use anyhow::{Result, bail};
use apus_base::doing;
use apus_base::lines::warning;
use apus_sdk::{Need, Tensor};
use serde_json::{Map, Value};

/// A weight that a callback gives in place of a trained one.
pub struct OtherWeight {
    /// The callback, for messages.
    pub by: String,
    /// The parameter.
    pub name: String,
    /// The weight.
    pub value: Tensor,
}

impl Events {
    /// The weights that are evaluated, answer and are saved in place of those that are trained.
    ///
    /// # Errors
    /// A callback failed, or does not declare that it gives some; the error names it.
    pub fn evaluated_weights(&self) -> Result<Vec<OtherWeight>> {
        const CALL: &str = "evaluated_weights";
        let mut all = Vec::new();
        for callback in &self.callbacks {
            let inside = doing::enter(&callback.label, CALL);
            let weights = callback.component.evaluated_weights();
            drop(inside);
            let weights = callback.context(CALL, weights)?;
            if !weights.is_empty() && !callback.declares(Need::Hooks) {
                let error = Need::Hooks.undeclared(&callback.needs);
                bail!("{}, {CALL}: {error}", callback.label);
            }
            all.extend(weights.into_iter().map(|(name, value)| OtherWeight {
                by: format!("{}, {CALL}", callback.label),
                name,
                value,
            }));
        }
        Ok(all)
    }

    /// What callbacks keep, by name.
    ///
    /// # Errors
    /// A callback failed; the error names it.
    pub fn save_state(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for callback in &self.callbacks {
            let kept = callback.context("save_state", callback.component.save_state())?;
            if !kept.is_null() {
                all.insert(callback.name.clone(), kept);
            }
        }
        Ok(all)
    }

    /// Restores what callbacks kept.
    ///
    /// # Errors
    /// A callback does not know its state; the error names it.
    pub fn load_state(&mut self, mut saved: Map<String, Value>) -> Result<()> {
        for callback in &mut self.callbacks {
            if let Some(kept) = saved.remove(&callback.name) {
                let loaded = callback.component.load_state(kept);
                callback.context("load_state", loaded)?;
            }
        }
        for name in saved.keys() {
            warning!(
                "resume: the checkpoint holds what the callback {name} kept, and this run has no callback of that name: \
                 it is left out"
            );
        }
        Ok(())
    }
}
