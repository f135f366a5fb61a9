//! A tuner bound to the layers of a model.

use super::MadeTuner;
use crate::host::{unwrap, wrap};
use anyhow::{Context, Result, ensure};
use apus_model::families::ModelConfig;
use apus_model::model::Addition;
use apus_model::model::updates::{PREFIX, UpdateTensor};
use apus_model::nn::Tuning;
use apus_model::tensors::TensorSpec;
use apus_sdk::{AddedParam, Init, LayerInfo};
use candle_core::Tensor;
use std::fmt;
use std::sync::Arc;

/// A tuner in one layer.
#[derive(Clone)]
pub struct Bound {
    tuner: MadeTuner,
    layer: LayerInfo,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.tuner.label, self.layer.name())
    }
}

/// What a tuner adds to these linear modules of a model. Modules that it adds nothing to are left out.
///
/// # Errors
/// The tuner's own, parameters that cannot be, or none at all.
pub fn additions(
    tuner: &MadeTuner,
    model: &ModelConfig,
    modules: &[String],
) -> Result<Vec<Addition>> {
    let mut all = Vec::new();
    for module in modules {
        all.extend(Bound::of(tuner, model, module)?.addition()?);
    }
    ensure!(
        !all.is_empty(),
        "{} adds parameters to none of the {} layers of target_modules",
        tuner.label,
        modules.len()
    );
    Ok(all)
}

fn check(added: &[AddedParam]) -> Result<()> {
    for (at, param) in added.iter().enumerate() {
        let name = param.name();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(allowed) && !name.starts_with("lora_"),
            "a parameter is called {name:?}, expected letters, digits, _ and ., and not the beginning lora_"
        );
        ensure!(
            !["weight", "bias"].contains(&name),
            "a parameter is called {name}, as the layer's own"
        );
        ensure!(
            added[..at].iter().all(|other| other.name() != name),
            "two parameters are called {name}"
        );
        ensure!(
            !param.shape().is_empty() && param.shape().iter().all(|&side| side > 0),
            "{name} has the shape {:?}, expected one or more sides, none of them 0",
            param.shape()
        );
        let number = match param.init() {
            Init::Constant(number) | Init::Uniform(number) | Init::Normal(number) => number,
            other => anyhow::bail!("{name} begins with {other:?}, which is not known here"),
        };
        ensure!(
            number.is_finite(),
            "{name} begins with {:?}, expected a finite number",
            param.init()
        );
    }
    Ok(())
}

impl Bound {
    /// A tuner in a layer.
    pub fn new(tuner: &MadeTuner, layer: LayerInfo) -> Self {
        Self {
            tuner: Arc::clone(tuner),
            layer,
        }
    }

    /// What the tuner adds to the layer, if anything.
    ///
    /// # Errors
    /// The tuner's own, or parameters that cannot be.
    pub fn addition(self) -> Result<Option<Addition>> {
        let (tuner, module) = (Arc::clone(&self.tuner), self.layer.name().to_owned());
        let inside = apus_base::doing::enter(&tuner.label, "parameters");
        let added = tuner.context("parameters", tuner.component.parameters(&self.layer))?;
        drop(inside);
        if added.is_empty() {
            return Ok(None);
        }
        check(&added).with_context(|| format!("{}, parameters of {module}", tuner.label))?;
        let tensors = added.iter().map(|param| {
            let tensor = UpdateTensor {
                name: format!("{PREFIX}{module}.{}", param.name()),
                shape: param.shape().to_vec(),
            };
            (tensor, param.init())
        });
        Ok(Some(Addition {
            tensors: tensors.collect(),
            target: module,
            tuning: Arc::new(self),
        }))
    }

    /// A tuner in a linear module of a model.
    ///
    /// # Errors
    /// The model does not have the module.
    pub fn of(tuner: &MadeTuner, model: &ModelConfig, module: &str) -> Result<Self> {
        let list = model.tensors();
        let dims = list.get(&format!("{module}.weight"));
        let dims = dims.and_then(TensorSpec::dims);
        let (inputs, outputs) =
            dims.with_context(|| format!("the model has no linear layer {module}"))?;
        let bias = list.get(&format!("{module}.bias")).is_some();
        let layer = LayerInfo::new(module, inputs, outputs).with_bias(bias);
        Ok(Self::new(tuner, layer))
    }

    fn call(
        &self,
        event: &str,
        params: &[Tensor],
        act: impl FnOnce(&[apus_sdk::Tensor]) -> apus_sdk::Result<apus_sdk::Tensor>,
    ) -> Result<Tensor> {
        let params: Vec<apus_sdk::Tensor> = params.iter().cloned().map(wrap).collect();
        let inside = apus_base::doing::enter(&self.tuner.label, event);
        let found = self.tuner.context(event, act(&params));
        drop(inside);
        let found = found.with_context(|| format!("in {}", self.layer.name()))?;
        Ok(unwrap(&found)?.clone())
    }

    /// The merged weight of the layer; `None` if the tuner has none.
    ///
    /// # Errors
    /// The tuner's own, or a result of another shape.
    pub fn merged_weight(&self, weight: &Tensor, params: &[Tensor]) -> Result<Option<Tensor>> {
        let wrapped = wrap(weight.clone());
        let mut is_there = true;
        let merged = self.call("merged_weight", params, |params| {
            let component = &self.tuner.component;
            let merged = component.merged_weight(&self.layer, &wrapped, params)?;
            is_there = merged.is_some();
            Ok(merged.unwrap_or(wrapped))
        })?;
        self.fits("merged_weight", &merged, weight)?;
        Ok(is_there.then_some(merged))
    }

    /// The merged bias of the layer.
    ///
    /// # Errors
    /// As [`merged_weight`](Self::merged_weight).
    pub fn merged_bias(&self, bias: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let wrapped = wrap(bias.clone());
        let merged = self.call("merged_bias", params, |params| {
            self.tuner
                .component
                .merged_bias(&self.layer, &wrapped, params)
        })?;
        self.fits("merged_bias", &merged, bias)?;
        Ok(merged)
    }

    fn fits(&self, event: &str, found: &Tensor, base: &Tensor) -> Result<()> {
        ensure!(
            found.dims() == base.dims() && found.dtype() == base.dtype(),
            "{}, {event} of {}: it gave {:?} {:?}, expected {:?} {:?}",
            self.tuner.label,
            self.layer.name(),
            found.dtype(),
            found.dims(),
            base.dtype(),
            base.dims()
        );
        Ok(())
    }

    /// The layer.
    pub fn layer(&self) -> &LayerInfo {
        &self.layer
    }
}

impl Tuning for Bound {
    fn input(&self, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let x = wrap(x.clone());
        self.call("input", params, |params| {
            self.tuner.component.input(&self.layer, &x, params)
        })
    }

    fn output(&self, x: &Tensor, y: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let (x, y) = (wrap(x.clone()), wrap(y.clone()));
        self.call("output", params, |params| {
            self.tuner.component.output(&self.layer, &x, &y, params)
        })
    }

    fn tuner(&self) -> &str {
        &self.tuner.name
    }
}
