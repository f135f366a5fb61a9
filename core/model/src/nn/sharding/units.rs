//! Makes units whole in the order in which a pass enters them, one ahead of its use, and frees them.

use super::{Sharding, Unit};
use crate::device::Queued;
use anyhow::{Context, Result};
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// What gathers the parts of all ranks. A gathering is collective: every rank begins the same ones in the same order.
pub trait Gather {
    /// Begins to put the parts of all ranks one after another, by rank, for each of these tensors `[n]`, beside the work of the
    /// device. Nothing may read the results before [`arrive`](Self::arrive).
    ///
    /// # Errors
    /// A rank or the connection has failed, or out of memory.
    fn start(&self, parts: &[Tensor]) -> Result<Vec<(Tensor, Queued)>>;

    /// Work that the device is given from now on comes after that gathering.
    ///
    /// # Errors
    /// The device has failed.
    fn arrive(&self, queued: &Queued) -> Result<()>;

    /// This rank is about to run new tokens of an answer through the model, which the others do not know of: they make the same
    /// pass without tokens.
    ///
    /// # Errors
    /// A rank is gone.
    fn lead(&self) -> Result<()>;
}

impl fmt::Debug for dyn Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gather")
    }
}

/// The units of a model in the order of a forward pass: its layers, and the output head if that is spread over ranks, too.
pub struct Units {
    units: Vec<Arc<Unit>>,
    gather: Rc<dyn Gather>,
    /// What is being gathered.
    started: RefCell<BTreeMap<usize, Vec<(Tensor, Queued)>>>,
    ranks: usize,
}

impl fmt::Debug for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.units).finish()
    }
}

/// The most bytes that are whole at a time, of units of these sizes in the order of a pass: those of two that follow each other.
pub fn most_at_a_time(sizes: &[u64]) -> u64 {
    let pairs = sizes.windows(2).map(|pair| pair.iter().sum());
    pairs.chain(sizes.iter().copied()).max().unwrap_or(0)
}

impl Units {
    /// Units that this gathers.
    pub fn new(units: Vec<Arc<Unit>>, sharding: &Sharding) -> Self {
        Self {
            units,
            gather: Rc::clone(&sharding.gather),
            ranks: sharding.ranks,
            started: RefCell::default(),
        }
    }

    /// The units.
    pub fn all(&self) -> &[Arc<Unit>] {
        &self.units
    }

    /// The most bytes that are whole at a time.
    pub fn most_bytes(&self) -> u64 {
        let bytes = |unit: &Arc<Unit>| {
            let parts = unit.parts().iter();
            let bytes = parts.map(|part| part.elem_count() * part.dtype().size_in_bytes());
            (bytes.sum::<usize>() * self.ranks) as u64
        };
        most_at_a_time(&self.units.iter().map(bytes).collect::<Vec<_>>())
    }

    /// Makes a unit whole, begins to gather the one that the pass enters next, and frees all others. A number beyond the last
    /// unit is one without tensors.
    ///
    /// # Errors
    /// A rank or the connection has failed, or out of memory.
    pub fn enter(&self, at: usize, next: Option<usize>) -> Result<()> {
        let keep = |other: usize| other == at || Some(other) == next;
        for other in (0..self.units.len()).filter(|&other| !keep(other)) {
            self.free(other)?;
        }
        self.start(at)?;
        self.arrive(at)?;
        next.map_or(Ok(()), |next| self.start(next))
    }

    /// Frees all units.
    ///
    /// # Errors
    /// The device has failed.
    pub fn leave(&self) -> Result<()> {
        (0..self.units.len()).try_for_each(|unit| self.free(unit))
    }

    /// Before a pass that the other ranks do not know of; see [`Gather::lead`].
    ///
    /// # Errors
    /// A rank is gone.
    pub fn lead(&self) -> Result<()> {
        self.gather.lead()
    }

    fn start(&self, at: usize) -> Result<()> {
        let Some(unit) = self.units.get(at) else {
            return Ok(());
        };
        if unit.is_whole() || self.started.borrow().contains_key(&at) || unit.parts().is_empty() {
            return Ok(());
        }
        let gathered = self.gather.start(unit.parts());
        let gathered = gathered.with_context(|| format!("gathering {}", unit.name()))?;
        self.started.borrow_mut().insert(at, gathered);
        Ok(())
    }

    fn arrive(&self, at: usize) -> Result<()> {
        let started = self.started.borrow_mut().remove(&at);
        if let (Some(started), Some(unit)) = (started, self.units.get(at)) {
            let arrived = started.into_iter().map(|(whole, queued)| {
                self.gather.arrive(&queued)?;
                Ok(whole)
            });
            unit.set(arrived.collect::<Result<_>>()?);
        }
        Ok(())
    }

    /// Frees a unit. What is being gathered has to arrive first, since its memory is written until then.
    fn free(&self, at: usize) -> Result<()> {
        self.arrive(at)?;
        self.units[at].free();
        Ok(())
    }
}
