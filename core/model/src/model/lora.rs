//! Adds low-rank updates to a model.

use super::CausalLm;
use super::updates::{Update, UpdateTensor, updates};
use crate::nn::{ExpertLinear, ExpertLora, Linear, Lora, Mlp, Param, Tuned};
use crate::ops::fill;
use crate::tensors::ExpertMatrix;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The modules that an adapter trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    /// Paths of linear modules that get a low-rank update: `model.layers.0.self_attn.q_proj`.
    pub linears: Vec<String>,
    /// Paths of blocks that get a tuner: `model.layers.0.mlp`.
    pub blocks: Vec<String>,
    /// Expert matrices that get a low-rank update, each by its layer and which of the two it is.
    pub experts: Vec<(usize, ExpertMatrix)>,
    /// Paths of modules that are trained whole.
    pub modules_to_save: Vec<String>,
    /// The numbers of the updates that have others than the rest, by the path of the linear module or the name of the parameter of
    /// experts.
    pub own: BTreeMap<String, Numbers>,
}

/// What low-rank updates of one adapter may differ in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// The rank.
    pub rank: usize,
    /// The numerator of the scale.
    pub alpha: f64,
}

/// How A is initialised; B starts at zero (`init_lora_weights`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// `U(-1/sqrt(in), 1/sqrt(in))`, PEFT's `kaiming_uniform_(a=sqrt(5))`.
    Kaiming,
    /// `N(0, 1/r)`, as PEFT's `gaussian`.
    Gaussian,
}

/// The settings of a low-rank update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSettings {
    /// The rank.
    pub rank: usize,
    /// The numerator of the scale.
    pub alpha: f64,
    /// The probability of dropping an input of A.
    pub dropout: f64,
    /// Whether the scale is `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    /// Whether the magnitude of each row is learnt separately (DoRA).
    pub use_dora: bool,
    /// How A is initialised.
    pub init: Init,
    /// The seed of A.
    pub seed: u64,
}

impl LoraSettings {
    /// Those of the update of one target.
    #[must_use]
    pub fn of(&self, targets: &Targets, target: &str) -> Self {
        match targets.own.get(target) {
            None => *self,
            Some(&Numbers { rank, alpha }) => Self {
                rank,
                alpha,
                ..*self
            },
        }
    }

    /// The factor on `B A`.
    pub fn scale(&self) -> f64 {
        self.alpha / Self::divisor(self.rank, self.use_rslora)
    }

    /// What alpha is divided by.
    pub fn divisor(rank: usize, use_rslora: bool) -> f64 {
        let rank = rank as f64;
        if use_rslora { rank.sqrt() } else { rank }
    }

    fn initial_a(&self, a: &UpdateTensor, device: &Device) -> Result<Tensor> {
        // So a parameter is initialised the same whatever else is trained.
        let key = (self.seed, fill::stream(&a.name));
        let shape = a.shape.as_slice();
        match self.init {
            Init::Kaiming => {
                let inputs = shape.last().copied().unwrap_or(1);
                let bound = 1.0 / (inputs as f32).sqrt();
                fill::uniform(shape, (-bound, bound), key, device)
            }
            Init::Gaussian => fill::normal(shape, 1.0 / self.rank as f32, key, DType::F32, device),
        }
    }

    fn pair(&self, update: &Update, device: &Device) -> Result<[Arc<Param>; 2]> {
        let start = self.initial_a(&update.a, device)?;
        let zeros = Tensor::zeros(update.b.shape.as_slice(), DType::F32, device)?;
        Ok([
            Param::new(update.a.name.as_str(), &start, true)?,
            Param::new(update.b.name.as_str(), &zeros, true)?,
        ])
    }
}

impl CausalLm {
    /// Adds updates to `targets`; their parameters join [`params`](Self::params) under the names that
    /// PEFT saves.
    ///
    /// # Errors
    /// The model does not have a target, or PEFT refuses such an update, too.
    pub fn add_lora(&mut self, targets: &Targets, settings: &LoraSettings) -> Result<()> {
        ensure!(settings.rank > 0, "lora_rank must be 1 or more");
        ensure!(
            !(settings.use_dora && settings.dropout > 0.0),
            "lora_dropout {} with use_dora is not supported; set lora_dropout to 0",
            settings.dropout
        );
        if !targets.experts.is_empty() {
            ensure!(
                settings.dropout == 0.0,
                "lora_dropout {} cannot be used with target_parameters, as in PEFT; set it to 0",
                settings.dropout
            );
            ensure!(
                !settings.use_dora,
                "use_dora cannot be used with target_parameters, as in PEFT"
            );
        }
        let list = self.config.tensors();
        let device = self.device().clone();
        for update in updates(&list, targets, settings)? {
            let settings = &settings.of(targets, &update.target);
            let params = match update.experts {
                None => {
                    if update.magnitude.is_some()
                        && let Some(layer) = list.layer_of(&update.target)
                    {
                        self.decoder.read_layer(layer)?;
                    }
                    let linear = self
                        .linears_mut()
                        .find(|linear| linear.name == update.target)
                        .with_context(|| {
                            format!("the model has no linear layer {}", update.target)
                        })?;
                    add(linear, &update, settings, &device)?
                }
                Some((layer, matrix)) => {
                    let expert = self.experts_mut(layer, matrix)?;
                    add_expert(expert, &update, settings, &device)?
                }
            };
            self.params.extend(params);
        }
        Ok(())
    }

    /// Takes all updates off, so that the model computes as it did before [`add_lora`](Self::add_lora) or [`add_tuned`](Self::add_tuned). Modules that are
    /// trained whole stay as they are.
    pub fn remove_lora(&mut self) {
        let mut added = Vec::new();
        for linear in self.linears_mut() {
            let tuned = linear.tuned.take();
            added.extend(tuned.into_iter().flat_map(|tuned| tuned.params));
            if let Some(Lora {
                a, b, magnitude, ..
            }) = linear.lora.take()
            {
                added.extend([a, b].into_iter().chain(magnitude));
            }
        }
        for layer in &mut self.decoder.layers {
            let mut tuned: Vec<Tuned> = Vec::new();
            let blocks = [&mut layer.tuned.layer, &mut layer.tuned.mlp];
            tuned.extend(blocks.into_iter().filter_map(Option::take));
            if let Mlp::Mixture(mixture) = &mut layer.mlp {
                let places = [
                    &mut mixture.tuned,
                    &mut mixture.gate_up.tuned,
                    &mut mixture.down.tuned,
                ];
                tuned.extend(places.into_iter().filter_map(Option::take));
                for lora in [mixture.gate_up.lora.take(), mixture.down.lora.take()] {
                    added.extend(lora.into_iter().flat_map(|lora| [lora.a, lora.b]));
                }
            }
            added.extend(tuned.into_iter().flat_map(|tuned| tuned.params));
        }
        self.params
            .retain(|param| !added.iter().any(|other| Arc::ptr_eq(other, param)));
    }
}

fn add(
    linear: &mut Linear,
    update: &Update,
    settings: &LoraSettings,
    device: &Device,
) -> Result<Vec<Arc<Param>>> {
    let [a, b] = settings.pair(update, device)?;
    let magnitude = match &update.magnitude {
        Some(magnitude) => {
            let norm = linear.weight.get(DType::F32)?.sqr()?.sum(1)?.sqrt()?;
            Some(Param::new(magnitude.name.as_str(), &norm, true)?)
        }
        None => None,
    };
    let mut params = vec![a.clone(), b.clone()];
    params.extend(magnitude.clone());
    linear.lora = Some(Lora {
        a,
        b,
        magnitude,
        scale: settings.scale(),
        dropout: settings.dropout as f32,
    });
    Ok(params)
}

fn add_expert(
    expert: &mut ExpertLinear,
    update: &Update,
    settings: &LoraSettings,
    device: &Device,
) -> Result<Vec<Arc<Param>>> {
    let [a, b] = settings.pair(update, device)?;
    let params = vec![a.clone(), b.clone()];
    expert.lora = Some(ExpertLora {
        a,
        b,
        scale: settings.scale(),
        experts: expert.dims().0,
    });
    Ok(params)
}
