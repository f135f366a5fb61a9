//! The optimizer's work spread over the ranks: each updates the parameters it owns and keeps their state, and gives the new
//! values to the others. Checkpoints hold the state of all, as those of one process do, so that any number of ranks goes on.

use super::buckets::{Bucket, Sizes, Trained, buckets, count};
use super::carry::carry;
use super::message::{packed, unpacked};
use super::owners::owners;
use super::{Ranks, Task};
use crate::train::optimizer::{Hook, OptimizerHost};
use anyhow::{Context, Result, anyhow, ensure};
use apus_model::model::CausalLm;
use apus_model::ops::copy;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

impl Ranks {
    /// Spreads the optimizer's work over the ranks, before the first step.
    ///
    /// # Errors
    /// A step was made.
    pub fn divide(&self, model: &CausalLm, optimizer: &mut OptimizerHost) -> Result<()> {
        let elements: Vec<usize> = model.params().iter().map(|param| count(param)).collect();
        let owners = owners(&elements, self.size());
        optimizer.shard(&owners, self.rank());
        let divided = buckets_of(model, |at| Some(owners[at]));
        let set = self.buckets.set(divided);
        set.map_err(|_| anyhow!("the optimizer is spread over the ranks after a step was made"))
    }

    /// How gradients travel, to all ranks unless they have owners.
    pub(super) fn buckets(&self, model: &CausalLm) -> &[Bucket] {
        self.buckets.get_or_init(|| buckets_of(model, |_| None))
    }

    /// Whether each rank updates its own parameters.
    pub fn is_divided(&self) -> bool {
        let buckets = self.buckets.get().into_iter().flatten();
        buckets.into_iter().any(|bucket| bucket.owner.is_some())
    }

    /// Gives each rank the values that their owners have updated.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn share_updates(&self) -> Result<()> {
        let collectives = self.collectives()?;
        for bucket in self.buckets.get().into_iter().flatten() {
            let Some(owner) = bucket.owner else { continue };
            let values = bucket.moving().map(|param| param.value().flatten_all());
            let values = values.collect::<candle_core::Result<Vec<Tensor>>>()?;
            // The only value of a bucket would not be copied otherwise, and it is replaced below.
            let joined = match values.as_slice() {
                [] => continue,
                [one] => one.copy()?,
                several => Tensor::cat(several, 0)?,
            };
            let (joined, queued) = self.control.watched(|| {
                carry(&self.stream, joined, |values| {
                    collectives.broadcast(values, owner)
                })
            })?;
            self.stream.wait(&queued)?;
            if owner == self.rank() {
                continue;
            }
            for (param, value) in bucket.parts(&joined) {
                copy::into(&param.value(), &value?)?;
            }
        }
        Ok(())
    }

    /// The state of all parameters, in host memory, at rank 0, which tells the others to send theirs.
    ///
    /// # Errors
    /// A rank is gone, or holds state that cannot be saved.
    pub fn collect_state(&self, optimizer: &OptimizerHost) -> Result<BTreeMap<String, Tensor>> {
        if !self.is_divided() {
            return optimizer.state();
        }
        self.tell(&Task::GiveState)?;
        let state = self.give_state(optimizer);
        self.rests();
        state
    }

    /// A rank's part in [`collect_state`](Self::collect_state): tensor by tensor goes to rank 0, one of each rank at a time.
    ///
    /// # Errors
    /// As there.
    pub fn give_state(&self, optimizer: &OptimizerHost) -> Result<BTreeMap<String, Tensor>> {
        let (own, found) = match optimizer.state() {
            Ok(own) => (own, Ok(())),
            Err(error) => (BTreeMap::new(), Err(error)),
        };
        self.agreed(found)?;
        let counts: Vec<usize> = self.gather(&own.len())?;
        let rounds = self.broadcast(counts.into_iter().max().unwrap_or(0))?;
        let mut all = BTreeMap::new();
        let mut left = own.into_iter();
        for _ in 0..rounds {
            let message = match (left.next(), self.rank()) {
                (Some((name, tensor)), 0) => {
                    all.insert(name, tensor.to_device(&Device::Cpu)?);
                    None
                }
                (Some((name, tensor)), _) => Some((name, packed(&tensor)?)),
                (None, _) => None,
            };
            let messages: Vec<Option<(String, Vec<u8>)>> = self.gather(&message)?;
            for (name, bytes) in messages.into_iter().flatten() {
                all.insert(name, unpacked(&bytes)?);
            }
        }
        Ok(all)
    }

    /// Gives every rank the optimizer's state after `step` updates, as rank 0 has restored it: each what it updates.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn share_state(
        &self,
        optimizer: &mut OptimizerHost,
        device: &Device,
        step: u64,
    ) -> Result<()> {
        let state = match self.rank() {
            0 => optimizer.state()?,
            _ => BTreeMap::new(),
        };
        let names: Vec<String> = self.broadcast(state.keys().cloned().collect())?;
        let step = self.broadcast(step)?;
        let mut received = BTreeMap::new();
        for name in names {
            let own = || {
                let tensor = state.get(&name).context("a tensor to send is missing")?;
                packed(tensor)
            };
            let bytes = match (optimizer.owner(&name), self.rank()) {
                (Some(0), _) => continue,
                (Some(owner), 0) => {
                    let mut parts = vec![Vec::new(); self.size()];
                    parts[owner] = own()?;
                    self.control.scatter(parts)?
                }
                (Some(_), _) => self.control.scatter(Vec::new())?,
                (None, 0) => self.control.broadcast(own()?)?,
                (None, _) => self.control.broadcast(Vec::new())?,
            };
            if self.rank() != 0 && !bytes.is_empty() {
                received.insert(name, unpacked(&bytes)?);
            }
        }
        let own = self.broadcast(serde_json::to_string(&optimizer.own_state()?)?)?;
        if self.rank() != 0 && step > 0 {
            optimizer.restore_own_state(serde_json::from_str(&own)?)?;
        }
        optimizer.forget_others();
        match received.is_empty() && step == 0 || self.rank() == 0 {
            true => Ok(()),
            false => optimizer.restore(step, received, device),
        }
    }

    /// A rank's part in telling the optimizer of all ranks of a hook; whoever has updated a parameter gives it to the others.
    ///
    /// # Errors
    /// The optimizer fails on a rank, or a rank is gone.
    pub fn hook(&self, optimizer: &mut OptimizerHost, hook: Hook) -> Result<()> {
        optimizer.hook(hook, |here| self.agreed(here))?;
        match self.is_divided() {
            true => self.share_updates(),
            false => Ok(()),
        }
    }

    /// Refuses what needs all ranks while they are in the middle of something.
    ///
    /// # Errors
    /// They are.
    pub fn check_rest(&self) -> Result<()> {
        ensure!(
            !self.is_divided() || !self.busy.get(),
            "the other ranks, which hold parts of the optimizer's state, were in the middle of a step"
        );
        Ok(())
    }

    /// The other ranks have done what they were told, and wait for the next task.
    pub fn rests(&self) {
        self.busy.set(false);
    }
}

fn buckets_of(model: &CausalLm, owner: impl Fn(usize) -> Option<usize>) -> Vec<Bucket> {
    let params = model.params_by_part().into_iter().enumerate();
    let trained = params.map(|(at, (part, param))| Trained {
        part,
        owner: owner(at),
        param,
    });
    buckets(&trained.collect::<Vec<_>>(), Sizes::USUAL)
}
