//! One update: every optimizer of a run over its parameters, all or nothing.

use super::OptimizerHost;
use super::slot::Slot;
use crate::host::wrap;
use anyhow::{Error, Result, anyhow, bail, ensure};
use apus_components::registry::Named;
use apus_model::ops::{copy, reduce};
use apus_model::profile::{self, OpGroup};
use apus_sdk::{Need, Optimizer, OptimizerStep, StepInfo};
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The forward and backward passes of a step once more, over the parameters as they are and over all ranks: gradients are
/// added to those that are there; gives the loss. What follows is the norm of all gradients, over all ranks.
pub struct Passes<'a> {
    /// Runs them.
    pub run: &'a mut dyn FnMut() -> Result<f64>,
    /// The sum over all ranks of a sum of squares.
    pub total: &'a dyn Fn(f64) -> Result<f64>,
}

impl OptimizerHost {
    /// One update at learning rate `lr`. Gradients stay until [`zero_grad`](Self::zero_grad). Waits for the device. An
    /// optimizer that wants to see the step's passes again sees the same gradients.
    ///
    /// # Errors
    /// The component failed, or left a value that is not finite.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let grads = self.own().map(|param| (param.clone(), param.grad()));
        let grads: Vec<_> = grads.collect();
        let mut same = || {
            for (param, grad) in &grads {
                if let Some(grad) = grad {
                    param.accumulate(grad.copy()?)?;
                }
            }
            Ok(0.0)
        };
        let passes = Passes {
            run: &mut same,
            total: &|here| Ok(here),
        };
        self.step_as_agreed(lr, passes, |here| here)
    }

    /// The same along with other ranks: `agree` is given how the step went here and knows how it went everywhere. It is made
    /// on all ranks or on none.
    ///
    /// # Errors
    /// As [`step`](Self::step), here or on another rank; an error of the passes is returned as it is.
    pub fn step_as_agreed(
        &mut self,
        lr: f64,
        passes: Passes,
        agree: impl FnOnce(Result<()>) -> Result<()>,
    ) -> Result<()> {
        let _span = profile::whole(OpGroup::Optimizer);
        let failed = RefCell::new(None);
        let work = |host: &mut Self| {
            host.step += 1;
            host.update(lr, passes, &failed)
        };
        // Where the passes failed here, other ranks are in the middle of theirs, or have heard of it.
        let agree = |here: Result<()>| match failed.borrow().is_some() {
            true => here.and_then(|()| bail!("the passes failed, and the optimizer went on")),
            false => agree(here),
        };
        let made = self.all_or_nothing(work, agree);
        match failed.into_inner() {
            Some(error) => Err(error),
            None => made,
        }
    }

    /// Does `work` on values and state; if it fails here or elsewhere, they are put back to what they were before it, or the
    /// host is torn.
    pub(super) fn all_or_nothing(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<()>,
        agree: impl FnOnce(Result<()>) -> Result<()>,
    ) -> Result<()> {
        let before = self.step;
        let can_be_taken_back = self.optimizers[0].from_plugin;
        self.torn = !can_be_taken_back;
        let then = match can_be_taken_back {
            true => {
                self.back_up()?;
                "its step was taken back"
            }
            false => "lower learning_rate, or look at the optimizer's options",
        };
        let made = work(self).and_then(|()| self.check_values(then));
        let made = agree(made);
        match &made {
            Ok(()) => self.torn = false,
            Err(_) if can_be_taken_back => {
                self.step = before;
                self.slots.iter_mut().try_for_each(Slot::put_back)?;
                let own = std::mem::take(&mut self.own_before);
                self.restore_own_state(own)?;
            }
            Err(_) => {}
        }
        made
    }

    fn back_up(&mut self) -> Result<()> {
        self.own_before = self.own_state()?;
        let rank = self.rank;
        let mut own = self.slots.iter_mut().filter(|slot| slot.moves(rank));
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
                self.label(),
                param.name()
            );
        }
        Ok(())
    }

    /// Lets every optimizer make its step. An error of the passes goes to `failed`.
    fn update(&mut self, lr: f64, passes: Passes, failed: &RefCell<Option<Error>>) -> Result<()> {
        let info = StepInfo { step: self.step };
        let rank = self.rank;
        let clipped = self.max_norm.get();
        let all: Vec<_> = self.own().cloned().collect();
        for (at, optimizer) in self.optimizers.iter_mut().enumerate() {
            let (sees_groups, repeats) = (
                optimizer.declares(Need::Groups),
                optimizer.declares(Need::Closure),
            );
            let own = |slot: &Slot| slot.moves(rank) && slot.optimizer == at;
            if !sees_groups && !repeats {
                // Parameters that are trained since another step have made another number of updates, as in torch, where each
                // counts its own. An optimizer that keeps something of its own counts by itself.
                let counts = optimizer.declares(Need::State) || optimizer.declares(Need::Hooks);
                let since = |slot: &Slot| if counts { 0 } else { slot.since };
                let mut starts: BTreeSet<u64> = self
                    .slots
                    .iter()
                    .filter(|slot| own(slot))
                    .map(since)
                    .collect();
                if starts.is_empty() {
                    starts.insert(0);
                }
                for start in starts {
                    let slots = self.slots.iter_mut();
                    let slots = slots.filter(|slot| own(slot) && since(slot) == start);
                    let info = StepInfo {
                        step: self.step - start,
                    };
                    on_params(slots, optimizer, "step", lr, present, |it, params| {
                        it.step(params, &info)
                    })?;
                }
                continue;
            }
            let members: Vec<usize> = self
                .slots
                .iter()
                .filter(|slot| own(slot))
                .map(|slot| slot.group)
                .collect();
            // The gradients that the optimizer holds; what a pass finds is written over them.
            let mut held = Vec::new();
            for slot in self.slots.iter().filter(|slot| slot.moves(rank)) {
                held.push(present(slot.param.grad(), &slot.param.value())?);
            }
            let mut given = held.iter();
            let given = |_: Option<Tensor>, _: &Tensor| {
                let next = given.next().cloned();
                next.ok_or_else(|| anyhow!("a gradient for each parameter"))
            };
            let mut again = || {
                if let Some(error) = &*failed.borrow() {
                    return Err(apus_sdk::Error::new(format!("{error:#}")));
                }
                let mut pass = || -> Result<f64> {
                    all.iter().for_each(|param| drop(param.take_grad()));
                    let loss = (passes.run)()?;
                    let mut grads = Vec::with_capacity(all.len());
                    for param in &all {
                        grads.push(present(param.take_grad(), &param.value())?);
                    }
                    let norm = (passes.total)(reduce::square_sum(&grads)?)?.sqrt();
                    ensure!(
                        norm.is_finite(),
                        "the gradient is not finite (its norm is {norm}) where the step's passes were made again"
                    );
                    let factor = clipped / (norm + 1e-6);
                    for (held, grad) in held.iter().zip(grads) {
                        let grad = match clipped > 0.0 && factor < 1.0 {
                            true => (grad * factor)?,
                            false => grad,
                        };
                        copy::into(held, &grad)?;
                    }
                    Ok(loss)
                };
                pass().map_err(|error| {
                    let text = format!("{error:#}");
                    *failed.borrow_mut() = Some(error);
                    apus_sdk::Error::new(text)
                })
            };
            let mut step = OptimizerStep::new(info);
            if sees_groups {
                step = step.with_groups(&self.groups, &members);
            }
            if repeats {
                step = step.with_closure(&mut again);
            }
            let own = self.slots.iter_mut().filter(|slot| own(slot));
            on_params(own, optimizer, "step_with", lr, given, |it, params| {
                it.step_with(params, &mut step)
            })?;
        }
        Ok(())
    }
}

/// The gradient, zeros where nothing reached a parameter.
fn present(grad: Option<Tensor>, value: &Tensor) -> Result<Tensor> {
    match grad {
        Some(grad) => Ok(grad),
        None => Ok(value.zeros_like()?),
    }
}

/// Calls an optimizer with parameters; `grad` chooses what it gets as the gradient of each.
pub(super) fn on_params<'a>(
    slots: impl Iterator<Item = &'a mut Slot>,
    optimizer: &mut Named<dyn Optimizer>,
    event: &str,
    lr: f64,
    mut grad: impl FnMut(Option<Tensor>, &Tensor) -> Result<Tensor>,
    call: impl FnOnce(&mut dyn Optimizer, &mut [apus_sdk::Param]) -> apus_sdk::Result<()>,
) -> Result<()> {
    let mut params = Vec::new();
    for slot in slots {
        let value = slot.param.value();
        let grad = grad(slot.param.grad(), &value)?;
        params.push(apus_sdk::Param {
            name: slot.param.name(),
            value: wrap(value),
            grad: wrap(grad),
            lr: lr * slot.lr_ratio * slot.lr_factor,
            decay: slot.decay,
            state: &mut slot.state,
        });
    }
    let inside = apus_base::doing::enter(&optimizer.label, event);
    let made = call(&mut *optimizer.component, &mut params);
    drop(inside);
    drop(params);
    optimizer.context(event, made)
}
