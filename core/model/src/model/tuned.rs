//! Adds a tuner's parameters to a model.

use super::CausalLm;
use super::updates::UpdateTensor;
use crate::nn::{Param, Tuned, Tuning, decays};
use crate::ops::fill;
use anyhow::{Context, Result, bail};
use apus_sdk::Init;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// What a tuner adds to a linear module.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The path of the module.
    pub target: String,
    /// The parameters, in the tuner's order, each with how it begins.
    pub tensors: Vec<(UpdateTensor, Init)>,
    /// What is computed with them.
    pub tuning: Arc<dyn Tuning>,
}

impl Addition {
    /// What it is in the table of a model's parts: `ia3 on k_proj`.
    pub fn part(&self) -> String {
        part(self.tuning.as_ref(), &self.target)
    }

    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        let shapes = self.tensors.iter().map(|(tensor, _)| &tensor.shape);
        let counts = shapes.map(|shape| {
            let sides = shape.iter().map(|&side| side as u64);
            sides.fold(1, u64::saturating_mul)
        });
        counts.fold(0, u64::saturating_add)
    }
}

/// What a tuner in a module is in the table of a model's parts.
pub fn part(tuning: &dyn Tuning, module: &str) -> String {
    let name = module.rsplit('.').next().unwrap_or(module);
    format!("{} on {name}", tuning.tuner())
}

impl CausalLm {
    /// Adds a tuner's parameters to linear modules; they join [`params`](Self::params). Random ones follow from the seed and their
    /// names.
    ///
    /// # Errors
    /// The model does not have a module, or out of memory.
    pub fn add_tuned(&mut self, additions: &[Addition], seed: u64) -> Result<()> {
        let device = self.device().clone();
        for addition in additions {
            let linear = self
                .linears_mut()
                .find(|linear| linear.name == addition.target)
                .with_context(|| format!("the model has no linear layer {}", addition.target))?;
            let params = addition.tensors.iter().map(|(tensor, init)| {
                let value = initial(tensor, *init, seed, &device)?;
                Param::new(tensor.name.as_str(), &value, decays(&tensor.name))
            });
            let params: Vec<Arc<Param>> = params.collect::<Result<_>>()?;
            linear.tuned = Some(Tuned {
                tuning: Arc::clone(&addition.tuning),
                params: params.clone(),
            });
            self.params.extend(params);
        }
        Ok(())
    }
}

fn initial(tensor: &UpdateTensor, init: Init, seed: u64, device: &Device) -> Result<Tensor> {
    let shape = tensor.shape.as_slice();
    // So a parameter begins the same whatever else is trained.
    let key = (seed, fill::stream(&tensor.name));
    match init {
        Init::Constant(value) => Ok(Tensor::full(value as f32, shape, device)?),
        Init::Uniform(bound) => fill::uniform(shape, (-bound as f32, bound as f32), key, device),
        Init::Normal(std) => fill::normal(shape, std as f32, key, DType::F32, device),
        other => bail!(
            "{}: it begins with {other:?}, which is not known here",
            tensor.name
        ),
    }
}
