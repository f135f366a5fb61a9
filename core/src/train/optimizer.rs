//! The host of an optimizer component: gradients, clipping, learning rates, state.

use crate::host::{unwrap, wrap};
use crate::model::Param;
use crate::ops::{copy, reduce};
use crate::profile::{self, Group};
use crate::registry::Named;
use anyhow::{Context, Result, ensure};
use apus_sdk::{Optimizer, State, StepInfo};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Between the name of a parameter and the name of its state in a checkpoint.
const SEPARATOR: &str = "//";

/// Runs an optimizer over the model's trainable parameters.
///
/// A plugin's step is all or nothing: values and state are copied before it, and put back if it fails
/// or leaves a value that is not finite.
pub struct OptimizerHost {
    optimizer: Named<dyn Optimizer>,
    slots: Vec<Slot>,
    step: u64,
}

struct Slot {
    param: Arc<Param>,
    /// Factor on the learning rate: LoRA+'s ratio for B matrices, else 1.
    lr_ratio: f64,
    state: State,
    backup: Option<Backup>,
}

impl Slot {
    /// Copies value and state, into the copies of the step before where they fit.
    fn back_up(&mut self) -> Result<()> {
        let mut old = self.backup.take().unwrap_or_default();
        let mut new = Backup {
            value: Some(refreshed(old.value, &self.param.value())?),
            state: BTreeMap::new(),
        };
        for (name, tensor) in self.state.iter() {
            let copy = refreshed(old.state.remove(name), unwrap(tensor)?)?;
            new.state.insert(name.to_owned(), copy);
        }
        self.backup = Some(new);
        Ok(())
    }

    /// Puts back what [`back_up`](Self::back_up) copied.
    fn put_back(&mut self) -> Result<()> {
        let Some(Backup { value, state }) = self.backup.take() else {
            return Ok(());
        };
        if let Some(value) = value {
            copy::into(&self.param.value(), &value)?;
        }
        self.state = State::default();
        for (name, tensor) in state {
            self.state.insert(name, wrap(tensor));
        }
        Ok(())
    }
}

/// Value and state of a parameter before a step.
#[derive(Default)]
struct Backup {
    value: Option<Tensor>,
    state: BTreeMap<String, Tensor>,
}

/// A copy of `from`, in the memory of an older one if that has its shape and type.
fn refreshed(old: Option<Tensor>, from: &Tensor) -> Result<Tensor> {
    match old {
        Some(old) if old.dims() == from.dims() && old.dtype() == from.dtype() => {
            copy::into(&old, from)?;
            Ok(old)
        }
        _ => Ok(from.copy()?),
    }
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
            .map(|param| Slot {
                lr_ratio: match lorap_lr_ratio {
                    Some(ratio) if param.name().contains("lora_B") => ratio,
                    _ => 1.0,
                },
                state: State::default(),
                backup: None,
                param,
            })
            .collect();
        Self {
            optimizer,
            slots,
            step: 0,
        }
    }

    /// Norm of all gradients together, which are then scaled down to `max_norm` if they exceed it
    /// (`torch.nn.utils.clip_grad_norm_`; 0 or less does not clip). Returns the norm before that.
    ///
    /// # Errors
    /// The device failed.
    pub fn clip(&self, max_norm: f64) -> Result<f64> {
        let _span = profile::whole(Group::Optimizer);
        let grads: Vec<Tensor> = self
            .slots
            .iter()
            .filter_map(|slot| slot.param.grad())
            .collect();
        let norm = reduce::square_sum(&grads)?.sqrt();
        let factor = max_norm / (norm + 1e-6);
        if max_norm > 0.0 && factor < 1.0 {
            for slot in &self.slots {
                if let Some(grad) = slot.param.take_grad() {
                    slot.param.accumulate((grad * factor)?)?;
                }
            }
        }
        Ok(norm)
    }

    /// One update at learning rate `lr`. Gradients stay until [`zero_grad`](Self::zero_grad).
    ///
    /// # Errors
    /// The component failed.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let _span = profile::whole(Group::Optimizer);
        if !self.optimizer.foreign {
            return self.update(lr);
        }
        for slot in &mut self.slots {
            slot.back_up()?;
        }
        let result = self.update(lr).and_then(|()| self.check_values());
        if result.is_err() {
            self.step -= 1;
            for slot in &mut self.slots {
                slot.put_back()?;
            }
        }
        result
    }

    fn check_values(&self) -> Result<()> {
        let values: Vec<Tensor> = self.slots.iter().map(|slot| slot.param.value()).collect();
        if reduce::square_sum(&values)?.is_finite() {
            return Ok(());
        }
        for slot in &self.slots {
            ensure!(
                reduce::square_sum(&[slot.param.value()])?.is_finite(),
                "{} left values in {} that are not finite; its step was taken back",
                self.optimizer.label,
                slot.param.name()
            );
        }
        Ok(())
    }

    fn update(&mut self, lr: f64) -> Result<()> {
        self.step += 1;
        let mut params = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
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
        let stepped = self.optimizer.component.step(&mut params, &info);
        self.optimizer.said("step", stepped)
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
    /// A state tensor that is not the host's.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for slot in &self.slots {
            for (name, tensor) in slot.state.iter() {
                let key = format!("{}{SEPARATOR}{name}", slot.param.name());
                all.insert(key, unwrap(tensor)?.clone());
            }
        }
        Ok(all)
    }

    /// Puts back what [`state`](Self::state) gave, after `step` updates.
    ///
    /// # Errors
    /// State of a parameter that this run does not train, or of another shape.
    pub fn restore(
        &mut self,
        step: u64,
        saved: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<()> {
        self.step = step;
        let mut by_name: BTreeMap<String, &mut Slot> = self
            .slots
            .iter_mut()
            .map(|slot| (slot.param.name().to_owned(), slot))
            .collect();
        for (key, tensor) in saved {
            let (param, name) = key.rsplit_once(SEPARATOR).with_context(|| {
                format!("optimizer state has the key {key:?}, not `parameter//name`")
            })?;
            let slot = by_name.get_mut(param).with_context(|| {
                format!(
                    "optimizer state is for {param}, which this run does not train; resume with \
                     the same target_modules and target_parameters, or start with --adapters"
                )
            })?;
            let value = slot.param.value();
            let (found, expected) = (tensor.dims(), value.dims());
            ensure!(
                tensor.dtype() != DType::F32 || found.len() != expected.len() || found == expected,
                "optimizer state {key} has shape {found:?}, the parameter {expected:?}"
            );
            slot.state.insert(name, wrap(tensor.to_device(device)?));
        }
        Ok(())
    }
}
