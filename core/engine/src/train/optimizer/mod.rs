//! The host of an optimizer component: gradients, clipping, learning rates, state.

pub mod alone;
pub mod footprint;
mod slot;
#[cfg(test)]
mod tests;

use crate::host::{unwrap, wrap};
use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::Named;
use apus_model::nn::Param;
use apus_model::ops::reduce;
use apus_model::profile::{self, OpGroup};
use apus_sdk::{Optimizer, StepInfo};
use candle_core::{DType, Device, Tensor};
use slot::Slot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Between the name of a parameter and the name of its state in a checkpoint.
const SEPARATOR: &str = "//";

/// Element types that an optimizer's state can have: those a component can name.
const STATE_TYPES: [DType; 5] = [DType::F32, DType::BF16, DType::I64, DType::U32, DType::U8];

/// Runs an optimizer over the model's trainable parameters.
///
/// After each step all values are finite, or the step is an error. A plugin's step is all or nothing: values and state
/// are copied before it, and put back if it fails or leaves a value that is not finite. A built-in one's is not copied, so
/// that after an error the host [is torn](Self::is_torn) and no checkpoint is made of it.
///
/// Where [ranks share the work](Self::shard), each has a host that updates the parameters it owns.
pub struct OptimizerHost {
    optimizer: Named<dyn Optimizer>,
    slots: Vec<Slot>,
    /// This rank.
    rank: usize,
    step: u64,
    /// Whether a step that cannot be taken back has failed.
    torn: bool,
}

impl OptimizerHost {
    /// Takes the parameters in the order given.
    ///
    /// With `lorap_lr_ratio`, parameters whose name contains `lora_B` learn that many times faster
    /// (LoRA+, <https://arxiv.org/abs/2402.12354>, `peft.optimizers.create_loraplus_optimizer`).
    pub fn new(
        optimizer: Named<dyn Optimizer>,
        params: Vec<Arc<Param>>,
        lorap_lr_ratio: Option<f64>,
    ) -> Self {
        let slots = params
            .into_iter()
            .map(|param| {
                let lr_ratio = match lorap_lr_ratio {
                    Some(ratio) if param.name().contains("lora_B") => ratio,
                    _ => 1.0,
                };
                Slot::new(param, lr_ratio)
            })
            .collect();
        Self {
            optimizer,
            slots,
            rank: 0,
            step: 0,
            torn: false,
        }
    }

    /// Updates from now on only the parameters that this rank owns; `owners` has the rank of each.
    pub fn shard(&mut self, owners: &[usize], rank: usize) {
        self.rank = rank;
        for (slot, owner) in self.slots.iter_mut().zip(owners) {
            slot.owner = Some(*owner);
        }
    }

    /// The component, for messages.
    pub fn label(&self) -> &str {
        &self.optimizer.label
    }

    /// The rank that owns the parameter of a key of the state; none where each of them updates it.
    pub fn owner(&self, key: &str) -> Option<usize> {
        let (name, _) = key.split_once(SEPARATOR)?;
        let slot = self.slots.iter().find(|slot| slot.param.name() == name)?;
        slot.owner
    }

    /// The parameters that this rank updates.
    pub fn own(&self) -> impl Iterator<Item = &Arc<Param>> {
        let own = self.slots.iter().filter(|slot| slot.is_of(self.rank));
        own.map(|slot| &slot.param)
    }

    /// Norm of all gradients together, which are then scaled down to `max_norm` if they exceed it
    /// (`torch.nn.utils.clip_grad_norm_`; 0 or less does not clip). Returns the norm before that. `total` is given the
    /// sum of squares here and knows that over all ranks.
    ///
    /// # Errors
    /// Those of `total`, or of the device.
    pub fn clip(&self, max_norm: f64, total: impl FnOnce(f64) -> Result<f64>) -> Result<f64> {
        let _span = profile::whole(OpGroup::Optimizer);
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

    /// One update at learning rate `lr`. Gradients stay until [`zero_grad`](Self::zero_grad). Waits for the device.
    ///
    /// # Errors
    /// The component failed, or left a value that is not finite.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        self.step_as_agreed(lr, |here| here)
    }

    /// The same along with other ranks: `agree` is given how the step went here and knows how it went everywhere. It is made
    /// on all ranks or on none.
    ///
    /// # Errors
    /// As [`step`](Self::step), here or on another rank.
    pub fn step_as_agreed(
        &mut self,
        lr: f64,
        agree: impl FnOnce(Result<()>) -> Result<()>,
    ) -> Result<()> {
        let _span = profile::whole(OpGroup::Optimizer);
        let before = self.step;
        let can_be_taken_back = self.optimizer.from_plugin;
        self.torn = !can_be_taken_back;
        let then = match can_be_taken_back {
            true => {
                self.back_up()?;
                "its step was taken back"
            }
            false => "lower learning_rate, or look at the optimizer's options",
        };
        let made = self.update(lr).and_then(|()| self.check_values(then));
        let made = agree(made);
        match &made {
            Ok(()) => self.torn = false,
            Err(_) if can_be_taken_back => {
                self.step = before;
                self.slots.iter_mut().try_for_each(Slot::put_back)?;
            }
            Err(_) => {}
        }
        made
    }

    fn back_up(&mut self) -> Result<()> {
        let rank = self.rank;
        let mut own = self.slots.iter_mut().filter(|slot| slot.is_of(rank));
        own.try_for_each(Slot::back_up)
    }

    fn check_values(&self, then: &str) -> Result<()> {
        let values: Vec<Tensor> = self.own().map(|param| param.value()).collect();
        if reduce::finite(&values)? {
            return Ok(());
        }
        for (param, value) in self.own().zip(values) {
            ensure!(
                reduce::finite(&[value])?,
                "{} left values in {} that are not finite; {then}",
                self.optimizer.label,
                param.name()
            );
        }
        Ok(())
    }

    fn update(&mut self, lr: f64) -> Result<()> {
        self.step += 1;
        let mut params = Vec::with_capacity(self.slots.len());
        let rank = self.rank;
        for slot in self.slots.iter_mut().filter(|slot| slot.is_of(rank)) {
            let value = slot.param.value();
            let grad = match slot.param.grad() {
                Some(grad) => grad,
                None => value.zeros_like()?,
            };
            params.push(apus_sdk::Param {
                name: slot.param.name(),
                value: wrap(value.clone()),
                grad: wrap(grad),
                lr: lr * slot.lr_ratio,
                decay: slot.param.decay(),
                state: &mut slot.state,
            });
        }
        let info = StepInfo { step: self.step };
        let inside = apus_base::doing::enter(&self.optimizer.label, "step");
        let stepped = self.optimizer.component.step(&mut params, &info);
        drop(inside);
        self.optimizer.context("step", stepped)
    }

    /// Whether a step has failed that could not be taken back: some of the parameters may have made it, others not.
    pub fn is_torn(&self) -> bool {
        self.torn
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

    /// Everything to save: `parameter//state` to tensor.
    ///
    /// # Errors
    /// A state tensor that is not the host's, or holds a number that is not finite.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for slot in &self.slots {
            for (name, tensor) in slot.state.iter() {
                let key = format!("{}{SEPARATOR}{name}", slot.param.name());
                all.insert(key, unwrap(tensor)?.clone());
            }
        }
        if let Some(key) = first_not_finite(&all)? {
            bail!(
                "{} keeps numbers in {key} that are not finite: lower learning_rate, or look at the optimizer's options",
                self.optimizer.label
            );
        }
        Ok(all)
    }

    /// Puts back what [`state`](Self::state) gave, after `step` updates. The optimizer chooses the shape of its
    /// state: rows and columns of a factored moment, scalars, counters. What belongs to other ranks stays in host memory
    /// until it is [forgotten](Self::forget_others).
    ///
    /// # Errors
    /// State of a parameter that this run does not train, of a type that no component has, or not finite.
    pub fn restore(
        &mut self,
        step: u64,
        saved: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<()> {
        if let Some(key) = first_not_finite(&saved)? {
            bail!(
                "optimizer state {key} holds numbers that are not finite; resume from an earlier checkpoint"
            );
        }
        self.step = step;
        let rank = self.rank;
        let mut by_name: BTreeMap<String, &mut Slot> = self
            .slots
            .iter_mut()
            .map(|slot| (slot.param.name().to_owned(), slot))
            .collect();
        for (key, tensor) in saved {
            let (param, name) = key.split_once(SEPARATOR).with_context(|| {
                format!("optimizer state has the key {key:?}, not `parameter//name`")
            })?;
            let slot = by_name.get_mut(param).with_context(|| {
                format!(
                    "optimizer state is for {param}, which this run does not train; resume with \
                     the same target_modules and target_parameters, or start with --adapters"
                )
            })?;
            ensure!(
                STATE_TYPES.contains(&tensor.dtype()),
                "optimizer state {key} has type {:?}, expected one of {STATE_TYPES:?}",
                tensor.dtype()
            );
            let device = match slot.is_of(rank) {
                true => device,
                false => &Device::Cpu,
            };
            slot.state.insert(name, wrap(tensor.to_device(device)?));
        }
        Ok(())
    }

    /// Forgets the state of parameters that other ranks own, once they have it.
    pub fn forget_others(&mut self) {
        let rank = self.rank;
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_of(rank)) {
            slot.state = apus_sdk::State::default();
        }
    }
}

/// The first of the tensors that holds NaN or an infinity; whole numbers have none.
fn first_not_finite(tensors: &BTreeMap<String, Tensor>) -> Result<Option<&str>> {
    let floats = tensors
        .iter()
        .filter(|(_, tensor)| matches!(tensor.dtype(), DType::F32 | DType::BF16));
    let floats: Vec<(&str, Tensor)> = floats
        .map(|(key, tensor)| Ok((key.as_str(), tensor.to_dtype(DType::F32)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let (host, card): (Vec<Tensor>, Vec<Tensor>) = floats
        .iter()
        .map(|(_, tensor)| tensor.clone())
        .partition(|tensor| tensor.device().is_cpu());
    if reduce::finite(&host)? && reduce::finite(&card)? {
        return Ok(None);
    }
    for (key, tensor) in floats {
        if !reduce::finite(&[tensor])? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}
