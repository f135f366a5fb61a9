//! Several ranks: processes that train one model together, each on its card or on a share of the CPU.
//!
//! `N` ranks make the training of one process with `N` times the accumulation. Rank 0 is that process: it runs the page of
//! the run, and what it does in a step, the others do with it ([`follow`]).

mod agreed;
mod base;
mod buckets;
mod carry;
mod checksums;
mod follow;
mod gradients;
mod join;
mod load;
mod message;
mod owners;
mod shards;
mod share;
mod task;

pub use agreed::is_agreed;
pub use buckets::ON_THEIR_WAY;
pub use checksums::EVERY as COMPARED_EVERY;
pub use follow::follow;
pub use gradients::Reduction;
pub use join::{device, join, place, rank_and_size};
pub use load::{Load, Loads};
pub use share::{Limit, Share, share};
pub use task::{BatchData, Evaluated, Found, Start, StepTask, Task};

use crate::train::about::machines::OtherMachines;
use anyhow::{Context, Result};
use apus_model::device::{SideStream, usage};
use apus_model::model::CausalLm;
use apus_model::nn::Param;
use apus_world::control::Reports;
use apus_world::{Collectives, Control};
use buckets::Bucket;
use candle_core::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, OnceCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// This process among the ranks of its run.
pub struct Ranks {
    control: Rc<Control>,
    /// There until it is dropped.
    collectives: Option<Rc<Box<dyn Collectives>>>,
    /// Where what they queue on a card goes.
    stream: Rc<SideStream>,
    /// How gradients travel; the same in all steps.
    buckets: OnceCell<Vec<Bucket>>,
    /// Whether the other ranks have a task, as far as rank 0 knows.
    busy: Cell<bool>,
    /// What of [`Ranks::waited`] was told, or belongs to no step.
    told: Cell<Duration>,
    /// What a step has waited for after it was told.
    left_over: Cell<Duration>,
    finished: bool,
}

impl Ranks {
    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.control.ranks().len()
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.control.rank()
    }

    /// What carries tensors, for people.
    pub fn carrier(&self) -> String {
        self.collectives
            .as_ref()
            .map_or_else(String::new, |carrier| carrier.name())
    }

    /// Where ranks tell rank 0 what their machines do.
    pub fn reports(&self) -> Reports {
        self.control.reports()
    }

    /// The machines of the other ranks, for rank 0.
    pub fn other_machines(&self) -> OtherMachines {
        OtherMachines::new(self.control.ranks(), self.reports())
    }

    /// A step begins: what this rank waits for from here on is the step's, with what was left over of the one before.
    ///
    /// # Errors
    /// The card has failed.
    pub fn begin_step(&self) -> Result<()> {
        let left_over = self.left_over.take();
        self.told.set(self.waited()?.saturating_sub(left_over));
        Ok(())
    }

    /// What this rank tells of itself with its part of a step.
    ///
    /// # Errors
    /// The card has failed.
    pub fn load(&self, device: &Device) -> Result<Load> {
        let waited = self.waited()?;
        let of_step = waited.saturating_sub(self.told.replace(waited));
        Ok(Load {
            peak: usage::peak(device),
            collectives: of_step.as_secs_f64(),
        })
    }

    /// A step is made. What this rank has waited for since its [`load`](Self::load) is told with the next one.
    ///
    /// # Errors
    /// The card has failed.
    pub fn end_step(&self) -> Result<()> {
        let left_over = self.waited()?.saturating_sub(self.told.get());
        self.left_over.set(left_over);
        Ok(())
    }

    /// Adds up all gradients that are there, over all ranks.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn sum_gradients(&self, model: &CausalLm) -> Result<()> {
        self.reduction(model)?.finish()
    }

    /// How long this rank has stood still so far, in collectives and for messages. What travels while its card computes
    /// does not count. Waits for the card.
    ///
    /// # Errors
    /// The card has failed.
    pub fn waited(&self) -> Result<Duration> {
        Ok(self.control.waited() + self.control.watched(|| self.stream.waited())?)
    }

    /// Says what this rank does from now on. What is `unhurried` may take as long as it needs.
    pub fn enter(&self, name: &str, unhurried: bool) {
        self.control.enter(name, unhurried);
    }

    /// Returns when all ranks have come here.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn barrier(&self) -> Result<()> {
        self.control.barrier()
    }

    /// Refuses ranks that were started with other values; see [`Control::agree`].
    ///
    /// # Errors
    /// They differ; the error names the first difference.
    pub fn agree(&self, values: &[(String, String)]) -> Result<()> {
        self.control.agree(values)
    }

    /// What rank 0 gives, at every rank.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T> {
        let bytes = match self.rank() {
            0 => postcard::to_stdvec(&value)?,
            _ => Vec::new(),
        };
        read(&self.control.broadcast(bytes)?)
    }

    /// What rank 0 gives this one.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T> {
        read(&self.control.scatter(Vec::new())?)
    }

    /// Gives each other rank its own; `parts` has one for each but rank 0.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn give<T: Serialize>(&self, parts: &[T]) -> Result<()> {
        let parts = parts.iter().map(postcard::to_stdvec);
        let all: Result<Vec<Vec<u8>>, _> = std::iter::once(Ok(Vec::new())).chain(parts).collect();
        self.busy.set(true);
        self.control.scatter(all?).map(drop)
    }

    /// Gives every other rank the same task.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn tell(&self, task: &Task) -> Result<()> {
        self.give(&vec![task; self.size() - 1])
    }

    /// At rank 0 what every rank gives, by rank; elsewhere nothing.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let all = self.control.gather(postcard::to_stdvec(value)?)?;
        let all = all.unwrap_or_default();
        all.iter().map(|bytes| read(bytes)).collect()
    }

    /// The least memory that is free on a rank, at rank 0, if that is known of all of them; elsewhere nothing.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn least_free(&self, device: &Device) -> Result<Option<u64>> {
        let all: Vec<Option<u64>> = self.gather(&usage::free(device))?;
        let all: Option<Vec<u64>> = all.into_iter().collect();
        Ok(all.and_then(|all| all.into_iter().min()))
    }

    /// Adds up the gradients of all ranks as a backward pass completes them.
    ///
    /// # Errors
    /// The ranks have left each other.
    pub fn reduction(&self, model: &CausalLm) -> Result<Reduction<'_>> {
        let buckets = self.buckets(model);
        let carrier = (self.collectives()?, &*self.stream);
        Ok(Reduction::new(
            carrier,
            Some(&self.control),
            self.rank(),
            buckets,
        ))
    }

    /// The bytes that this rank has put into collectives since the beginning of the run.
    pub fn carried(&self) -> u64 {
        self.stream.bytes()
    }

    fn collectives(&self) -> Result<&dyn Collectives> {
        let collectives = self.collectives.as_ref();
        let collectives = collectives.map(|collectives| &***collectives);
        collectives.context("the ranks have left each other")
    }

    /// Gives every rank the values that rank 0 has.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn share_weights(&self, params: &[Arc<Param>]) -> Result<()> {
        for param in params {
            let own = match self.rank() {
                0 => message::packed(&param.value())?,
                _ => Vec::new(),
            };
            let bytes = self.control.broadcast(own)?;
            if self.rank() != 0 {
                param.set(&message::unpacked(&bytes)?)?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint of the run, to be named if another rank ends it.
    pub fn note_checkpoint(&self, path: &Path) {
        self.control.note_checkpoint(path.display().to_string());
    }

    /// Ends the run on all ranks: this one cannot go on.
    pub fn fail(&self, error: &anyhow::Error) {
        self.control.fail(&format!("{error:#}"));
    }

    /// This rank has finished, and leaves the others when all work is done.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn finish(mut self) -> Result<()> {
        let left = match self.collectives.take() {
            // Who gathers a base holds it only while it gathers.
            Some(collectives) => match Rc::into_inner(collectives) {
                Some(collectives) => collectives.leave(),
                None => Ok(()),
            },
            None => Ok(()),
        };
        self.finished = true;
        self.control.finish();
        left
    }
}

/// A rank that ends by an error tells the others by [`LastWords`], and one that ends by a panic here.
impl Drop for Ranks {
    fn drop(&mut self) {
        if !self.finished && std::thread::panicking() {
            self.control.fail("it has ended by a bug");
        }
    }
}

/// What a rank tells the others when it ends by an error, wherever in the run that is.
#[derive(Default)]
pub struct LastWords(OnceCell<Rc<Control>>);

impl LastWords {
    /// These are the others.
    pub fn go_to(&self, ranks: &Ranks) {
        // A process joins the ranks of its run once.
        let _ = self.0.set(Rc::clone(&ranks.control));
    }

    /// Ends the run on all of them for this reason, if it has not ended yet.
    pub fn say(&self, error: &anyhow::Error) {
        if let Some(control) = self.0.get() {
            control.fail(&format!("{error:#}"));
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).context("what another rank sent cannot be read")
}
