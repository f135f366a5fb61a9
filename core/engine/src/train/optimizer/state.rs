//! What an optimizer keeps, on its way into checkpoints and out of them: tensors about each parameter, and what it keeps
//! beside them.

use super::{OptimizerHost, SEPARATOR, Slot};
use crate::host::{unwrap, wrap};
use anyhow::{Context, Result, bail, ensure};
use apus_model::ops::reduce;
use apus_sdk::Need;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Element types that an optimizer's state can have: those a component can name.
const STATE_TYPES: [DType; 5] = [DType::F32, DType::BF16, DType::I64, DType::U32, DType::U8];

impl OptimizerHost {
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
                self.label()
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

    /// What the optimizers keep beside the state of parameters, one for each; empty if none declares that.
    ///
    /// # Errors
    /// One of them cannot say.
    pub fn own_state(&self) -> Result<Vec<Value>> {
        let mut optimizers = self.optimizers.iter();
        if !optimizers.any(|optimizer| optimizer.declares(Need::State)) {
            return Ok(Vec::new());
        }
        let all = self.optimizers.iter().map(|optimizer| {
            if !optimizer.declares(Need::State) {
                return Ok(Value::Null);
            }
            let inside = apus_base::doing::enter(&optimizer.label, "save_state");
            let saved = optimizer.component.save_state();
            drop(inside);
            optimizer.context("save_state", saved)
        });
        all.collect()
    }

    /// Puts back what [`own_state`](Self::own_state) gave.
    ///
    /// # Errors
    /// It is not of these optimizers.
    pub fn restore_own_state(&mut self, saved: Vec<Value>) -> Result<()> {
        for (optimizer, saved) in self.optimizers.iter_mut().zip(saved) {
            if !optimizer.declares(Need::State) {
                continue;
            }
            let inside = apus_base::doing::enter(&optimizer.label, "load_state");
            let loaded = optimizer.component.load_state(saved);
            drop(inside);
            optimizer.context("load_state", loaded)?;
        }
        Ok(())
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
