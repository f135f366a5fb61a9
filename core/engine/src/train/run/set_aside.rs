//! Weights of callbacks, such as averages, in place of those that are trained: while the model is evaluated, answers or is
//! saved the trained ones are set aside.
//!
//! A checkpoint has the callbacks' weights where everybody looks for weights, and the trained ones in a file beside them, with
//! which a run goes on.

use super::learner::Learner;
use crate::host::fitting;
use crate::train::events::OtherWeight;
use anyhow::{Context, Result, ensure};
use apus_base::checksums;
use apus_model::nn::Param;
use apus_model::weights;
use apus_sdk::private::no_parameter;
use candle_core::{Device, Tensor};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// The trained weights in a checkpoint whose weights are those of callbacks.
pub const FILE: &str = "trained_weights.safetensors";

/// Trained weights that others stand in place of.
pub struct SetAside(Vec<(Arc<Param>, Tensor)>);

impl SetAside {
    /// Puts these in place of trained weights, on all ranks. Nothing is put if one of them does not fit.
    ///
    /// # Errors
    /// One that does not fit its parameter, or is given twice; a rank is gone.
    pub fn put(learner: &Learner, others: Vec<OtherWeight>) -> Result<Self> {
        let (mut fit, mut trained) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for OtherWeight { by, name, value } in &others {
            ensure!(
                seen.insert(name),
                "{by}: gives another weight for {name}, which was given already"
            );
            let params = learner.model.params();
            let param = params.iter().find(|param| param.name() == name);
            let there = || params.iter().map(|param| param.name());
            let param = param.ok_or_else(|| no_parameter(name, there()));
            let param = param.with_context(|| by.clone())?;
            fit.push(fitting(param, value).with_context(|| by.clone())?);
            trained.push((param.clone(), param.value().copy()?));
        }
        let aside = Self(trained);
        if aside.0.is_empty() {
            return Ok(aside);
        }
        learner.weights_are_trained.set(false);
        let mut pairs = aside.0.iter().zip(&fit);
        let put = pairs.try_for_each(|((param, _), value)| param.set(value));
        match put.and_then(|()| learner.share_weights()) {
            Ok(()) => Ok(aside),
            Err(error) => {
                aside.take_back(learner)?;
                Err(error)
            }
        }
    }

    /// Whether all weights are those that are trained.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the trained weights back, on all ranks.
    ///
    /// # Errors
    /// The device has failed, or a rank is gone.
    pub fn take_back(self, learner: &Learner) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut all = self.0.iter();
        all.try_for_each(|(param, value)| param.set(value))?;
        learner.weights_are_trained.set(true);
        learner.share_weights()
    }

    /// Does `work` while the weights of callbacks are there.
    ///
    /// # Errors
    /// As [`put`](Self::put) and [`take_back`](Self::take_back), and those of `work`.
    pub fn during<T>(self, learner: &Learner, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let done = work(&self);
        let back = self.take_back(learner);
        let done = done?;
        back.map(|()| done)
    }

    /// Writes the trained weights into a checkpoint, if others are in their place.
    pub fn save(&self, checkpoint: &Path) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let all = self.0.iter();
        let all = all.map(|(param, value)| (param.name().to_owned(), value.clone()));
        weights::save(&all.collect::<HashMap<_, _>>(), &checkpoint.join(FILE))
    }
}

/// Goes on with the trained weights of a checkpoint, where it has others in their place.
///
/// # Errors
/// They are not as they were written, or do not fit the model.
pub fn restore(learner: &Learner, checkpoint: &Path) -> Result<()> {
    let path = checkpoint.join(FILE);
    if !path.is_file() {
        return Ok(());
    }
    checksums::check(checkpoint, [FILE])?;
    let all = candle_core::safetensors::load(&path, &Device::Cpu)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    for (name, value) in all {
        let mut params = learner.model.params().iter();
        let param = params.find(|param| param.name() == name);
        let set = param.context("the model has no such parameter");
        set.and_then(|param| param.set(&value))
            .with_context(|| format!("{}: {name}", path.display()))?;
    }
    Ok(())
}
