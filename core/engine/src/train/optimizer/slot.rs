//! A parameter with what its optimizer keeps about it, and the copies of both that make a step all or nothing.

use super::groups::{GroupRate, GroupTable};
use crate::host::{unwrap, wrap};
use anyhow::Result;
use apus_model::nn::Param;
use apus_model::ops::copy;
use apus_sdk::State;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A parameter in the host.
pub(super) struct Slot {
    /// The parameter.
    pub param: Arc<Param>,
    /// Factor on the learning rate: its own, such as LoRA+'s ratio for B matrices, times that of its group.
    pub lr_ratio: f64,
    /// Whether weight decay applies.
    pub decay: bool,
    /// The place of its group; 0 for none.
    pub group: usize,
    /// The place of the optimizer that updates it.
    pub optimizer: usize,
    /// Factor on the learning rate that a callback has asked for.
    pub lr_factor: f64,
    /// How many steps were made when it began to be trained.
    pub since: u64,
    /// What the optimizer keeps about it. Of a parameter of another rank it is there only on the way to that one.
    pub state: State,
    /// The rank that updates it; none where each of them does.
    pub owner: Option<usize>,
    backup: Option<Backup>,
}

impl Slot {
    /// A parameter that nothing is kept about yet.
    pub fn new(param: Arc<Param>) -> Self {
        Self {
            decay: param.decay(),
            group: 0,
            optimizer: 0,
            lr_ratio: param.lr_factor(),
            param,
            lr_factor: 1.0,
            since: 0,
            state: State::default(),
            owner: None,
            backup: None,
        }
    }

    /// Makes it one of a group, which is at this place and updated by the optimizer at that one.
    pub fn join(&mut self, table: &GroupTable, group: usize, optimizer: usize) {
        (self.group, self.optimizer) = (group, optimizer);
        self.lr_ratio = match table.lr {
            GroupRate::Factor(factor) => self.lr_ratio * factor,
            GroupRate::InPlace(factor) => factor,
        };
        self.decay = table.decay.unwrap_or(self.decay);
    }

    /// Whether this rank updates it.
    pub fn is_of(&self, rank: usize) -> bool {
        self.owner.is_none_or(|owner| owner == rank)
    }

    /// Whether this rank updates it in the steps that are made now.
    pub fn moves(&self, rank: usize) -> bool {
        self.is_of(rank) && !self.param.is_frozen()
    }

    /// Forgets what the optimizer keeps about it.
    pub fn forget(&mut self) {
        self.state = State::default();
        self.backup = None;
    }

    /// Copies value and state, into the copies of the step before where they fit.
    pub fn back_up(&mut self) -> Result<()> {
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
    pub fn put_back(&mut self) -> Result<()> {
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
