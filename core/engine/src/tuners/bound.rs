//! A tuner bound to the layers of a model.

use super::MadeTuner;
use crate::host::{Role, role, unwrap, wrap, wrap_as};
use anyhow::{Context, Result, bail, ensure};
use apus_model::families::ModelConfig;
use apus_model::model::updates::{PREFIX, UpdateTensor, expert_module};
use apus_model::model::{Addition, LowRank, Targets};
use apus_model::nn::Tuning;
use apus_model::ops::lora::Factors;
use apus_model::tensors::{ExpertMatrix, Role as Part, TensorSpec};
use apus_sdk::{AddedParam, Init, LayerInfo, LayerKind, Need};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The names of A and B in PEFT's files.
const OF_PEFT: [&str; 2] = ["lora_A.weight", "lora_B.weight"];

/// A tuner in one layer.
#[derive(Clone)]
pub struct Bound {
    tuner: MadeTuner,
    layer: LayerInfo,
    /// The rows that the layer computes for a token.
    rows_per_token: usize,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.tuner.label, self.layer.name())
    }
}

/// What a tuner adds to these linear modules, blocks and experts of a model. Those that it adds nothing to are left out.
///
/// # Errors
/// The tuner's own, parameters that cannot be, or none at all.
pub fn additions(
    tuner: &MadeTuner,
    model: &ModelConfig,
    targets: &Targets,
) -> Result<Vec<Addition>> {
    let mut all = Vec::new();
    for module in targets.linears.iter().chain(&targets.blocks) {
        all.extend(Bound::of(tuner, model, module)?.addition()?);
    }
    for &at in &targets.experts {
        all.extend(Bound::of_experts(tuner, model, targets, at)?);
    }
    ensure!(
        !all.is_empty() || !targets.modules_to_save.is_empty(),
        "{} adds parameters to none of the {} layers of target_modules and target_parameters",
        tuner.label,
        targets.linears.len() + targets.blocks.len() + targets.experts.len()
    );
    let trained: u64 = all.iter().map(Addition::trained_elements).sum();
    ensure!(
        trained > 0 || !targets.modules_to_save.is_empty(),
        "{} freezes all parameters that it adds, and nothing is left to train",
        tuner.label
    );
    let list = model.tensors();
    let mut names = BTreeSet::new();
    for (tensor, _) in all.iter().flat_map(|addition| &addition.tensors) {
        let own = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
        ensure!(
            names.insert(own) && list.get(own).is_none(),
            "{} adds a parameter {own}, and there is one of this name already; name it otherwise",
            tuner.label
        );
    }
    Ok(all)
}

fn check(added: &[AddedParam]) -> Result<()> {
    for (at, param) in added.iter().enumerate() {
        let name = param.name();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(allowed),
            "a parameter is called {name:?}, expected letters, digits, _ and ."
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
            Init::Between(low, high) => low + high,
            Init::RowNorms => 0.0,
            other => bail!("{name} begins with {other:?}, which is not known here"),
        };
        ensure!(
            number.is_finite(),
            "{name} begins with {:?}, expected a finite number",
            param.init()
        );
        ensure!(
            param.lr_factor().is_finite() && param.lr_factor() >= 0.0,
            "{name} has a learning rate {} times that of the run, expected a factor of 0 or more",
            param.lr_factor()
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
            rows_per_token: 1,
        }
    }

    /// What the tuner adds to the layer, if anything.
    ///
    /// # Errors
    /// The tuner's own, or parameters that cannot be.
    pub fn addition(self) -> Result<Option<Addition>> {
        let added = self.parameters()?;
        if added.is_empty() {
            return Ok(None);
        }
        let low_rank = match self.layer.kind() {
            LayerKind::Linear => self.low_rank(&added)?,
            _ => None,
        };
        if low_rank.is_none() {
            self.refuse_names(&added)?;
        }
        let tensors = self.named(self.layer.name(), added);
        Ok(Some(self.adding(None, tensors, low_rank)))
    }

    /// The parameters that the tuner adds.
    fn parameters(&self) -> Result<Vec<AddedParam>> {
        let tuner = &self.tuner;
        let inside = apus_base::doing::enter(&tuner.label, "parameters");
        let added = tuner.context("parameters", tuner.component.parameters(&self.layer))?;
        drop(inside);
        check(&added)
            .with_context(|| format!("{}, parameters of {}", tuner.label, self.layer.name()))?;
        Ok(added)
    }

    /// Refuses parameters that are called as those of low-rank updates where there is none.
    fn refuse_names(&self, added: &[AddedParam]) -> Result<()> {
        let called = added.iter().find(|param| param.name().starts_with("lora_"));
        match called {
            None => Ok(()),
            Some(called) => bail!(
                "{}: {} on {} is no low-rank update: output has to be y.low_rank(x, a, b, ..) of the parameters, and nothing \
                 else, where a name begins with lora_, as in PEFT's files",
                self.tuner.label,
                called.name(),
                self.layer.name()
            ),
        }
    }

    /// The tensors of parameters that belong to a module in files.
    fn named(&self, module: &str, added: Vec<AddedParam>) -> Vec<(UpdateTensor, AddedParam)> {
        let added = added.into_iter().map(|param| {
            let tensor = UpdateTensor {
                name: format!("{PREFIX}{module}.{}", param.name()),
                shape: param.shape().to_vec(),
            };
            (tensor, param)
        });
        added.collect()
    }

    fn adding(
        self,
        experts: Option<(usize, ExpertMatrix)>,
        tensors: Vec<(UpdateTensor, AddedParam)>,
        low_rank: Option<LowRank>,
    ) -> Addition {
        Addition {
            experts,
            tensors,
            target: self.layer.name().to_owned(),
            tuning: Arc::new(self),
            low_rank,
        }
    }

    /// The low-rank update that the tuner is, if it is one: seen by what it does with a row of zeros, whose handles say which part
    /// of the layer they are.
    fn low_rank(&self, added: &[AddedParam]) -> Result<Option<LowRank>> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let row =
            |sides: usize, role: Role| Ok::<_, anyhow::Error>(wrap_as(zeros(&[1, sides])?, role));
        let x = row(self.layer.inputs(), Role::Input)?;
        let y = row(self.layer.outputs(), Role::Output)?;
        let params = added.iter().enumerate().map(|(place, param)| {
            let value = zeros(param.shape())?;
            Ok(wrap_as(value, Role::Param(place)))
        });
        let params: Vec<apus_sdk::Tensor> = params.collect::<Result<_>>()?;
        let tuner = &self.tuner.component;
        let input = self.ask("input", || tuner.input(&self.layer, &x, &params))?;
        let output = self.ask("output", || tuner.output(&self.layer, &x, &y, &params))?;
        Ok(match (role(&input)?, role(&output)?) {
            (Some(Role::Input), Some(Role::Updated(update)))
                if added.len() == 2 + usize::from(update.magnitude.is_some()) =>
            {
                Some(update)
            }
            _ => None,
        })
    }

    /// A tuner in a linear module or a block of a model.
    ///
    /// # Errors
    /// The model does not have the module.
    pub fn of(tuner: &MadeTuner, model: &ModelConfig, module: &str) -> Result<Self> {
        let list = model.tensors();
        if let Some(block) = list.block(module) {
            let width = model.architecture.hidden_size;
            let layer = LayerInfo::block(module, block.kind, width);
            let experts = list.experts(block.layer);
            let experts = experts.filter(|_| block.kind != LayerKind::Decoder);
            let layer = match experts {
                Some(experts) => layer.with_experts(experts),
                None => layer,
            };
            return Ok(Self::new(tuner, layer));
        }
        let dims = list.get(&format!("{module}.weight"));
        let dims = dims.and_then(TensorSpec::dims);
        let (inputs, outputs) =
            dims.with_context(|| format!("the model has no linear layer and no block {module}"))?;
        let bias = list.get(&format!("{module}.bias")).is_some();
        let layer = LayerInfo::new(module, inputs, outputs).with_bias(bias);
        Ok(Self::new(tuner, layer))
    }

    /// The tuner of an addition: in a linear module, in a block, or in one matrix of experts.
    ///
    /// # Errors
    /// The model does not have it.
    pub fn of_addition(
        tuner: &MadeTuner,
        model: &ModelConfig,
        addition: &Addition,
    ) -> Result<Self> {
        match addition.experts {
            None => Self::of(tuner, model, &addition.target),
            Some(at) => Self::of_expert(tuner, model, at).map(|(bound, _)| bound),
        }
    }

    /// A tuner in a matrix of each expert, and the number of experts.
    fn of_expert(
        tuner: &MadeTuner,
        model: &ModelConfig,
        (layer, matrix): (usize, ExpertMatrix),
    ) -> Result<(Self, usize)> {
        let list = model.tensors();
        let missing = || format!("the model has no experts {matrix:?} in layer {layer}");
        let spec = list.weight(Some(layer), Part::Experts(matrix));
        let spec = spec.with_context(missing)?;
        let (inputs, outputs) = spec.dims().with_context(missing)?;
        let bias = list.bias(Some(layer), Part::Experts(matrix)).is_some();
        let info = LayerInfo::new(&spec.name, inputs, outputs).with_bias(bias);
        let layers = &model.architecture.layers;
        let bound = Self {
            rows_per_token: layers.get(layer).map_or(1, |l| l.mlp.rows_per_token()),
            ..Self::new(tuner, info)
        };
        Ok((bound, spec.matrices()))
    }

    /// What a tuner adds to a parameter of experts: low-rank updates of their matrices, or else to each matrix what it adds to a
    /// linear layer.
    fn of_experts(
        tuner: &MadeTuner,
        model: &ModelConfig,
        targets: &Targets,
        at: (usize, ExpertMatrix),
    ) -> Result<Option<Addition>> {
        let (each, experts) = Self::of_expert(tuner, model, at)?;
        let name = each.layer.name().to_owned();
        let all = Self::new(tuner, each.layer.clone().with_matrices(experts));
        let added = all.parameters()?;
        if let Some(update) = all.low_rank(&added)? {
            all.check_of_experts(&update, &added)?;
            let of_peft = [update.a, update.b].map(|place| added[place].name()) == OF_PEFT;
            let in_peft = expert_module(&model.tensors(), targets, at.0, at.1);
            let module = in_peft.filter(|_| of_peft).unwrap_or(name);
            let tensors = all.named(&module, added);
            return Ok(Some(all.adding(Some(at), tensors, Some(update))));
        }
        let added = each.parameters()?;
        if added.is_empty() {
            return Ok(None);
        }
        each.refuse_names(&added)?;
        let mut tensors = each.named(&name, added);
        for (tensor, _) in &mut tensors {
            tensor.shape.insert(0, experts);
        }
        Ok(Some(each.adding(Some(at), tensors, None)))
    }

    /// Checks a low-rank update of experts.
    fn check_of_experts(&self, update: &LowRank, added: &[AddedParam]) -> Result<()> {
        let ranks = added[update.a].shape()[0];
        ensure!(
            update.dropout == 0.0
                && update.magnitude.is_none()
                && ranks.is_multiple_of(self.layer.matrices()),
            "{}: on {} it computes a low-rank update with {ranks} rows of A, dropout {}{}: of experts it has as many rows of \
             A for each of the {}, and neither dropout nor magnitudes, as in PEFT",
            self.tuner.label,
            self.layer.name(),
            update.dropout,
            match update.magnitude {
                Some(_) => " and magnitudes",
                None => "",
            },
            self.layer.matrices()
        );
        Ok(())
    }

    fn call(
        &self,
        event: &str,
        params: &[Tensor],
        act: impl FnOnce(&[apus_sdk::Tensor]) -> apus_sdk::Result<apus_sdk::Tensor>,
    ) -> Result<Tensor> {
        let params: Vec<apus_sdk::Tensor> = params.iter().cloned().map(wrap).collect();
        let found = self.ask(event, || act(&params))?;
        Ok(unwrap(&found)?.clone())
    }

    fn ask<T>(&self, event: &str, act: impl FnOnce() -> apus_sdk::Result<T>) -> Result<T> {
        let inside = apus_base::doing::enter(&self.tuner.label, event);
        let found = self.tuner.context(event, act());
        drop(inside);
        found.with_context(|| format!("in {}", self.layer.name()))
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

    /// The low-rank update that the tuner comes to with these parameters; `None` if there is none.
    ///
    /// # Errors
    /// The tuner's own, or factors of another shape.
    pub fn low_rank_update(&self, params: &[Tensor]) -> Result<Option<Factors>> {
        if self.layer.kind() != LayerKind::Linear {
            return Ok(None);
        }
        let params: Vec<apus_sdk::Tensor> = params.iter().cloned().map(wrap).collect();
        let found = self.ask("low_rank_update", || {
            let component = &self.tuner.component;
            component.low_rank_update(&self.layer, &params)
        })?;
        let Some([a, b]) = found else {
            return Ok(None);
        };
        let (a, b) = (unwrap(&a)?.clone(), unwrap(&b)?.clone());
        let rank = a.dims().first().copied().unwrap_or(0);
        let (inputs, outputs) = (self.layer.inputs(), self.layer.outputs());
        ensure!(
            rank > 0
                && a.dims() == [rank, inputs]
                && b.dims() == [outputs, rank]
                && [a.dtype(), b.dtype()] == [DType::F32; 2],
            "{}, low_rank_update of {}: it gave {:?} {:?} and {:?} {:?}, expected F32 [R, {inputs}] and [{outputs}, R]",
            self.tuner.label,
            self.layer.name(),
            a.dtype(),
            a.dims(),
            b.dtype(),
            b.dims()
        );
        Ok(Some(Factors { a, b }))
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

    fn matrices(&self) -> usize {
        self.layer.matrices()
    }

    fn rows_per_token(&self) -> u64 {
        self.rows_per_token as u64
    }

    fn makes_initial(&self) -> bool {
        self.tuner.declares(Need::Initial)
    }

    fn initial(&self, weight: Option<&Tensor>, drawn: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let weight = weight.cloned().map(wrap);
        let drawn: Vec<apus_sdk::Tensor> = drawn.into_iter().map(wrap).collect();
        let values = self.ask("initial", || {
            let component = &self.tuner.component;
            component.initial(&self.layer, weight.as_ref(), &drawn)
        })?;
        let values = values.iter().map(|value| Ok(unwrap(value)?.clone()));
        values.collect()
    }

    fn widths(&self) -> (usize, usize) {
        (self.layer.inputs(), self.layer.outputs())
    }
}
