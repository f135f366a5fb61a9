//! Adds a tuner's parameters to a model.

use super::CausalLm;
use super::updates::UpdateTensor;
use crate::nn::{ExpertLora, Linear, Lora, Param, Tuned, Tuning, decays, tape_bytes};
use crate::ops::fill;
use crate::tensors::ExpertMatrix;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{AddedParam, Init};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// What a tuner adds to a linear module, to a block, or to a matrix of each expert.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The path of the module or block, or the name of the parameter of experts.
    pub target: String,
    /// The layer and the matrix, if it is one of experts.
    pub experts: Option<(usize, ExpertMatrix)>,
    /// The parameters, in the tuner's order; of experts, unless it is a low-rank update, a tensor has those of all: `[E, ..]`.
    pub tensors: Vec<(UpdateTensor, AddedParam)>,
    /// What is computed with them.
    pub tuning: Arc<dyn Tuning>,
    /// The low-rank update that it is, if it is one: then the layer computes it by itself and does not ask the tuner.
    pub low_rank: Option<LowRank>,
}

/// A low-rank update that a tuner has described by what it computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRank {
    /// The place of A among the parameters.
    pub a: usize,
    /// That of B.
    pub b: usize,
    /// That of DoRA's magnitude.
    pub magnitude: Option<usize>,
    /// The factor on `B A`.
    pub scale: f64,
    /// The probability of dropping an input of A.
    pub dropout: f64,
}

impl LowRank {
    /// Whether another one has the same dropout, and magnitudes as this one or none.
    pub fn is_like(&self, other: &Self) -> bool {
        let of = |update: &Self| (update.dropout, update.magnitude.is_some());
        of(self) == of(other)
    }

    /// The update of a linear layer with these parameters, in the tuner's order.
    ///
    /// # Errors
    /// There are fewer than it names.
    pub fn lora(&self, params: &[Arc<Param>]) -> Result<Lora> {
        let at = |place: usize| {
            let found = params.get(place).cloned();
            found.with_context(|| {
                format!("a low-rank update of parameter {place} of {}", params.len())
            })
        };
        Ok(Lora {
            a: at(self.a)?,
            b: at(self.b)?,
            magnitude: self.magnitude.map(at).transpose()?,
            scale: self.scale,
            dropout: self.dropout as f32,
        })
    }
}

impl Addition {
    /// What it is in the table of a model's parts: `ia3 on k_proj`.
    pub fn part(&self) -> String {
        let Some(rank) = self.rank() else {
            return part(self.tuning.as_ref(), &self.target);
        };
        let parts = if self.experts.is_some() { 2 } else { 1 };
        let dots = self.target.rmatch_indices('.');
        let start = dots.map(|(at, _)| at + 1).nth(parts - 1).unwrap_or(0);
        format!("LoRA on {}, rank {rank}", &self.target[start..])
    }

    /// The rank, if it is a low-rank update.
    pub fn rank(&self) -> Option<usize> {
        let update = self.low_rank?;
        let (a, _) = self.tensors.get(update.a)?;
        let rows = *a.shape.first()?;
        Some(rows / self.tuning.matrices())
    }

    /// The bytes that it adds to a layer's tape of so many tokens; a low-rank update is counted apart.
    pub fn tape_bytes(&self, tokens: u64) -> u64 {
        let rows = tokens.saturating_mul(self.tuning.rows_per_token());
        match self.low_rank {
            Some(_) => 0,
            None => tape_bytes(rows, self.tuning.widths(), self.elements()),
        }
    }

    /// The names of its tensors that stay as they begin.
    pub fn frozen(&self) -> impl Iterator<Item = &String> {
        let frozen = self.tensors.iter().filter(|(_, param)| param.is_frozen());
        frozen.map(|(tensor, _)| &tensor.name)
    }

    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        self.count(|_| true)
    }

    /// The number of those that are trained.
    pub fn trained_elements(&self) -> u64 {
        self.count(|param| !param.is_frozen())
    }

    fn count(&self, counts: impl Fn(&AddedParam) -> bool) -> u64 {
        let counted = self.tensors.iter().filter(|(_, param)| counts(param));
        let counts = counted.map(|(tensor, _)| {
            let sides = tensor.shape.iter().map(|&side| side as u64);
            sides.fold(1, u64::saturating_mul)
        });
        counts.fold(0, u64::saturating_add)
    }

    /// Gives a linear layer these parameters.
    ///
    /// # Errors
    /// They are fewer than it has.
    pub fn put_on(&self, linear: &mut Linear, params: Vec<Arc<Param>>) -> Result<()> {
        match &self.low_rank {
            Some(update) => linear.lora = Some(update.lora(&params)?),
            None => {
                linear.tuned = Some(self.tuned(params));
            }
        }
        Ok(())
    }

    /// Whether the layer's weight is needed for how the parameters begin.
    fn begins_with_weight(&self) -> bool {
        let mut inits = self.tensors.iter().map(|(_, param)| param.init());
        self.tuning.makes_initial() || inits.any(|init| init == Init::RowNorms)
    }

    /// The low-rank update of the matrices of experts, whose parameters are those of all together.
    fn low_rank_of_all(&self) -> Option<LowRank> {
        self.low_rank.filter(|_| self.experts.is_some())
    }

    /// What the tuner has made of the drawn values, matrix by matrix.
    fn begun(&self, drawn: Vec<Tensor>, matrices: &Matrices) -> Result<Vec<Tensor>> {
        let one = |weight: Option<&Tensor>, drawn: Vec<Tensor>| {
            let shapes: Vec<Vec<usize>> = drawn.iter().map(|value| value.dims().to_vec()).collect();
            let values = self.tuning.initial(weight, drawn)?;
            let found: Vec<Vec<usize>> = values.iter().map(|value| value.dims().to_vec()).collect();
            ensure!(
                found == shapes && values.iter().all(|value| value.dtype() == DType::F32),
                "tuner {}, initial of {}: it gave the shapes {found:?}, expected {shapes:?}, all F32",
                self.tuning.tuner(),
                self.target
            );
            Ok(values)
        };
        match matrices {
            Matrices::None => one(None, drawn),
            Matrices::One(weight) => one(Some(weight), drawn),
            Matrices::Experts(count, of) => {
                let mut all = vec![Vec::new(); drawn.len()];
                for expert in 0..*count {
                    let own = drawn.iter().map(|value| value.get(expert));
                    let own = own.collect::<candle_core::Result<_>>()?;
                    for (all, value) in all.iter_mut().zip(one(Some(&of(expert)?), own)?) {
                        all.push(value);
                    }
                }
                let all = all.iter().map(|values| Ok(Tensor::stack(values, 0)?));
                all.collect()
            }
        }
    }

    /// The tuner with these parameters, as a layer asks it.
    fn tuned(&self, params: Vec<Arc<Param>>) -> Tuned {
        Tuned {
            module: self.target.clone(),
            tuning: Arc::clone(&self.tuning),
            params,
        }
    }

    /// The parameters as they begin; `matrices` are those of the layer, `[O, I]` each.
    fn params(
        &self,
        (seed, device): (Option<u64>, &Device),
        matrices: &Matrices,
    ) -> Result<Vec<Arc<Param>>> {
        let drawn = self.tensors.iter().map(|(tensor, param)| {
            let Some(seed) = seed else {
                return Ok(Tensor::zeros(tensor.shape.as_slice(), DType::F32, device)?);
            };
            match param.init() {
                Init::RowNorms => matrices.norms().with_context(|| tensor.name.clone()),
                init => initial(tensor, init, seed, device),
            }
        });
        let drawn: Vec<Tensor> = drawn.collect::<Result<_>>()?;
        let begun =
            match seed.is_some() && self.tuning.makes_initial() && self.low_rank_of_all().is_none()
            {
                true => self.begun(drawn, matrices)?,
                false => drawn,
            };
        let params = self
            .tensors
            .iter()
            .zip(begun)
            .map(|((tensor, param), value)| {
                let lr_factor = (!param.is_frozen()).then(|| param.lr_factor());
                let name = tensor.name.as_str();
                let made = Param::learning(name, &value, decays(name), lr_factor)?;
                ensure!(
                    made.value().dims() == tensor.shape,
                    "{name} has shape {:?}, and begins with {:?}",
                    tensor.shape,
                    made.value().dims()
                );
                Ok(made)
            });
        params.collect()
    }
}

/// The matrices of a layer, for parameters that begin with them.
enum Matrices<'a> {
    /// A block has none, and where nothing begins with them they are not made.
    None,
    /// That of a linear layer, f32.
    One(Tensor),
    /// Those of so many experts, f32, made one by one.
    Experts(usize, &'a dyn Fn(usize) -> Result<Tensor>),
}

impl Matrices<'_> {
    /// The norms of their rows.
    fn norms(&self) -> Result<Tensor> {
        match self {
            Self::None => bail!("a block has no norms of rows"),
            Self::One(matrix) => row_norms(matrix),
            Self::Experts(count, of) => {
                let norms = (0..*count).map(|at| row_norms(&of(at)?));
                Ok(Tensor::stack(&norms.collect::<Result<Vec<_>>>()?, 0)?)
            }
        }
    }
}

/// What a tuner in a module is in the table of a model's parts.
pub fn part(tuning: &dyn Tuning, module: &str) -> String {
    let mut parts = module.rsplit('.');
    // A decoder layer ends with its number: `model.layers.3`.
    let name = parts.find(|part| part.parse::<usize>().is_err());
    format!("{} on {}", tuning.tuner(), name.unwrap_or(module))
}

impl CausalLm {
    /// Adds a tuner's parameters to linear modules, blocks and experts; they join [`params`](Self::params). Random ones follow from the seed
    /// and their names; without a seed all are zeros, to be set to what was trained.
    ///
    /// # Errors
    /// The model does not have a module, or out of memory.
    pub fn add_tuned(&mut self, additions: &[Addition], seed: Option<u64>) -> Result<()> {
        let device = self.device().clone();
        let list = self.config.tensors();
        for addition in additions {
            let params = match (addition.experts, list.block(&addition.target)) {
                (None, Some(block)) => {
                    let params = addition.params((seed, &device), &Matrices::None)?;
                    let layer = self.decoder.layers.get_mut(block.layer);
                    let place = layer.and_then(|layer| layer.tuner_of_block(block.kind));
                    let place = place
                        .with_context(|| format!("the model has no block {}", addition.target))?;
                    *place = Some(addition.tuned(params.clone()));
                    params
                }
                (None, None) => {
                    let with_weight = seed.is_some() && addition.begins_with_weight();
                    if with_weight && let Some(layer) = list.layer_of(&addition.target) {
                        self.decoder.read_layer(layer)?;
                    }
                    let linear = self
                        .linears_mut()
                        .find(|linear| linear.name == addition.target)
                        .with_context(|| {
                            format!("the model has no linear layer {}", addition.target)
                        })?;
                    let matrices = match with_weight {
                        true => Matrices::One(linear.weight.get(DType::F32)?),
                        false => Matrices::None,
                    };
                    let params = addition.params((seed, &device), &matrices)?;
                    addition.put_on(linear, params.clone())?;
                    params
                }
                (Some((layer, matrix)), _) => {
                    if seed.is_some() && addition.begins_with_weight() {
                        self.decoder.read_layer(layer)?;
                    }
                    let expert = self.experts_mut(layer, matrix)?;
                    let (experts, ..) = expert.dims();
                    let matrix = |at| expert.matrix_of(at);
                    let matrices = Matrices::Experts(experts, &matrix);
                    let params = addition.params((seed, &device), &matrices)?;
                    match addition.low_rank {
                        None => expert.tuned = Some(addition.tuned(params.clone())),
                        Some(update) => {
                            let Lora { a, b, scale, .. } = update.lora(&params)?;
                            expert.lora = Some(ExpertLora {
                                a,
                                b,
                                scale,
                                experts,
                            });
                        }
                    }
                    params
                }
            };
            self.params.extend(params);
        }
        if self.params.iter().any(|param| param.is_fixed()) {
            // A backward pass ends at the lowest layer that has something to train.
            self.freeze(&|_| false);
        }
        Ok(())
    }
}

/// The norm of each row of a matrix `[O, I]`.
fn row_norms(matrix: &Tensor) -> Result<Tensor> {
    Ok(matrix.sqr()?.sum(1)?.sqrt()?)
}

fn initial(tensor: &UpdateTensor, init: Init, seed: u64, device: &Device) -> Result<Tensor> {
    let shape = tensor.shape.as_slice();
    // So a parameter begins the same whatever else is trained.
    let key = (seed, fill::stream(&tensor.name));
    match init {
        Init::Constant(value) => Ok(Tensor::full(value as f32, shape, device)?),
        Init::Uniform(bound) => fill::uniform(shape, (-bound as f32, bound as f32), key, device),
        Init::Between(low, high) => fill::uniform(shape, (low as f32, high as f32), key, device),
        Init::Normal(std) => fill::normal(shape, std as f32, key, DType::F32, device),
        other => bail!(
            "{}: it begins with {other:?}, which is not known here",
            tensor.name
        ),
    }
}
