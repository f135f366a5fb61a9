//! The host of an optimizer component: gradients, clipping, learning rates, state.

pub mod alone;
pub mod footprint;
pub mod groups;
mod hooks;
#[cfg(test)]
mod needs_tests;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod update;

pub use groups::Grouped;
pub use hooks::Hook;
pub use update::Passes;

use super::requested::Requested;
use crate::host::RunView;
use anyhow::Result;
use apus_components::registry::Named;
use apus_model::nn::Param;
use apus_model::ops::reduce;
use apus_model::profile::{self, OpGroup};
use apus_sdk::{Need, Optimizer, ParameterGroup};
use candle_core::Tensor;
use serde_json::Value;
use slot::Slot;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Between the name of a parameter and the name of its state in a checkpoint.
const SEPARATOR: &str = "//";

/// Runs an optimizer over the model's trainable parameters.
///
/// After each step all values are finite, or the step is an error. A plugin's step is all or nothing: values and state
/// are copied before it, and put back if it fails or leaves a value that is not finite. A built-in one's is not copied, so
/// that after an error the host [is torn](Self::is_torn) and no checkpoint is made of it.
///
/// Where [ranks share the work](Self::shard), each has a host that updates the parameters it owns.
pub struct OptimizerHost {
    /// The run's, and one for each group with options of its own unless the optimizer sees groups itself.
    optimizers: Vec<Named<dyn Optimizer>>,
    /// The group of all parameters that belong to no other, and the others.
    groups: Vec<ParameterGroup>,
    slots: Vec<Slot>,
    /// This rank.
    rank: usize,
    step: u64,
    /// Whether a step that cannot be taken back has failed.
    torn: bool,
    /// Whether the weights are others than those that are trained, between two hooks.
    away: bool,
    /// The limit of the last [`clip`](Self::clip), which holds for passes that a step makes again.
    max_norm: Cell<f64>,
    /// What the optimizers kept of their own before a step.
    own_before: Vec<Value>,
}

impl OptimizerHost {
    /// Takes the parameters in the order given.
    pub fn new(optimizer: impl Into<Grouped>, params: Vec<Arc<Param>>) -> Self {
        let Grouped {
            optimizer,
            groups: tables,
        } = optimizer.into();
        let mut slots: Vec<Slot> = params.into_iter().map(Slot::new).collect();
        let mut optimizers = vec![optimizer];
        let mut groups = vec![ParameterGroup::default()];
        for (table, own) in tables {
            let at = match own {
                Some(own) => {
                    optimizers.push(own);
                    optimizers.len() - 1
                }
                None => 0,
            };
            let free = slots.iter_mut().filter(|slot| slot.group == 0);
            for slot in free.filter(|slot| table.matches(slot.param.name())) {
                slot.join(&table, groups.len(), at);
            }
            groups.push(table.group);
        }
        Self {
            optimizers,
            groups,
            slots,
            rank: 0,
            step: 0,
            torn: false,
            away: false,
            max_norm: Cell::new(0.0),
            own_before: Vec::new(),
        }
    }

    /// Whether the optimizer declares this.
    pub fn declares(&self, need: Need) -> bool {
        self.optimizers[0].declares(need)
    }

    /// The parameters of the group of this name in `optimizer.groups`, if there is one.
    pub fn of_group(&self, name: &str) -> Option<Vec<String>> {
        let at = self
            .groups
            .iter()
            .skip(1)
            .position(|group| group.name() == name)?
            + 1;
        let slots = self.slots.iter().filter(|slot| slot.group == at);
        Some(slots.map(|slot| slot.param.name().to_owned()).collect())
    }

    /// Updates from now on only the parameters that this rank owns; `owners` has the rank of each.
    pub fn shard(&mut self, owners: &[usize], rank: usize) {
        self.rank = rank;
        for (slot, owner) in self.slots.iter_mut().zip(owners) {
            slot.owner = Some(*owner);
        }
    }

    /// Does what callbacks have asked of the parameters: about a frozen one nothing is kept, and one that is trained again begins
    /// as all did. Which are frozen the model knows already ([`CausalLm::freeze`](apus_model::model::CausalLm::freeze)).
    pub fn obey(&mut self, requested: &Requested) {
        for slot in &mut self.slots {
            let name = slot.param.name();
            slot.lr_factor = requested.lr_factors.get(name).copied().unwrap_or(1.0);
            slot.since = requested.trained_since.get(name).copied().unwrap_or(0);
            if slot.param.is_frozen() {
                slot.forget();
            }
        }
    }

    /// Gives the run to the optimizers.
    ///
    /// # Errors
    /// One failed; the error names it.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        let mut all = self.optimizers.iter_mut();
        all.try_for_each(|optimizer| view.begin(optimizer, |optimizer, run| optimizer.begin(run)))
    }

    /// The component, for messages.
    pub fn label(&self) -> &str {
        &self.optimizers[0].label
    }

    /// The rank that owns the parameter of a key of the state; none where each of them updates it.
    pub fn owner(&self, key: &str) -> Option<usize> {
        let (name, _) = key.split_once(SEPARATOR)?;
        let slot = self.slots.iter().find(|slot| slot.param.name() == name)?;
        slot.owner
    }

    /// The parameters that this rank updates.
    pub fn own(&self) -> impl Iterator<Item = &Arc<Param>> {
        let own = self.slots.iter().filter(|slot| slot.moves(self.rank));
        own.map(|slot| &slot.param)
    }

    /// Their names.
    pub fn own_names(&self) -> BTreeSet<String> {
        self.own().map(|param| param.name().to_owned()).collect()
    }

    /// Norm of all gradients together, which are then scaled down to `max_norm` if they exceed it
    /// (`torch.nn.utils.clip_grad_norm_`; 0 or less does not clip). Returns the norm before that. `total` is given the
    /// sum of squares here and knows that over all ranks.
    ///
    /// # Errors
    /// Those of `total`, or of the device.
    pub fn clip(&self, max_norm: f64, total: impl FnOnce(f64) -> Result<f64>) -> Result<f64> {
        let _span = profile::whole(OpGroup::Optimizer);
        self.max_norm.set(max_norm);
        let grads: Vec<Tensor> = self.own().filter_map(|param| param.grad()).collect();
        let norm = total(reduce::square_sum(&grads)?)?.sqrt();
        let factor = max_norm / (norm + 1e-6);
        if max_norm > 0.0 && factor < 1.0 {
            for param in self.own() {
                if let Some(grad) = param.take_grad() {
                    param.accumulate((grad * factor)?)?;
                }
            }
        }
        Ok(norm)
    }

    /// Whether a step has failed that could not be taken back, so that some of the parameters may have made it and others
    /// not, or the weights for an evaluation or a checkpoint are still there.
    pub fn is_torn(&self) -> bool {
        self.torn || self.away
    }

    /// Forgets all gradients.
    pub fn zero_grad(&self) {
        for slot in &self.slots {
            slot.param.take_grad();
        }
    }

    /// The parameters.
    pub fn params(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.slots.iter().map(|slot| &slot.param)
    }
}
