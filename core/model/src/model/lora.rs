//! Adds low-rank updates to a model.

use super::CausalLm;
use crate::nn::{ExpertLinear, ExpertLora, Linear, Lora, Param};
use crate::ops::fill;
use crate::tensors::ExpertMatrix;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// The modules that an adapter trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    /// Paths of linear modules that get a low-rank update: `model.layers.0.self_attn.q_proj`.
    pub linears: Vec<String>,
    /// Expert matrices that get a low-rank update, each by its layer and which of the two it is.
    pub experts: Vec<(usize, ExpertMatrix)>,
    /// Paths of modules that are trained whole.
    pub modules_to_save: Vec<String>,
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
    /// The factor on `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn initial_a(
        &self,
        name: &str,
        shape: &[usize],
        inputs: usize,
        device: &Device,
    ) -> Result<Tensor> {
        let key = (self.seed, stream(name));
        match self.init {
            Init::Kaiming => {
                let bound = 1.0 / (inputs as f32).sqrt();
                fill::uniform(shape, (-bound, bound), key, device)
            }
            Init::Gaussian => fill::normal(shape, 1.0 / self.rank as f32, key, DType::F32, device),
        }
    }

    fn pair(
        &self,
        module: &str,
        [a, b]: [[usize; 2]; 2],
        inputs: usize,
        device: &Device,
    ) -> Result<[Arc<Param>; 2]> {
        let [a_name, b_name] =
            ["A", "B"].map(|m| format!("base_model.model.{module}.lora_{m}.weight"));
        let start = self.initial_a(&a_name, &a, inputs, device)?;
        let zeros = Tensor::zeros(&b, DType::F32, device)?;
        Ok([
            Param::new(a_name, &start, true)?,
            Param::new(b_name, &zeros, true)?,
        ])
    }
}

/// The stream of random numbers for a name (FNV-1a), so that a parameter is initialised the same whatever else is
/// trained.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
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
        let mut params = Vec::new();
        for path in &targets.linears {
            let linear = self
                .linears_mut()
                .find(|linear| &linear.name == path)
                .with_context(|| format!("the model has no linear layer {path}"))?;
            params.extend(add(linear, settings)?);
        }
        for &(layer, matrix) in &targets.experts {
            let both = [ExpertMatrix::GateUp, ExpertMatrix::Down]
                .iter()
                .all(|m| targets.experts.contains(&(layer, *m)));
            // PEFT wraps one parameter around the other: the inner one is gate_up_proj.
            let inner = both && matrix == ExpertMatrix::GateUp;
            let device = self.device().clone();
            let expert = self.experts_mut(layer, matrix)?;
            let module = expert
                .name
                .rsplit_once('.')
                .map_or("", |(module, _)| module);
            let module = match inner {
                true => format!("{module}.base_layer"),
                false => module.to_owned(),
            };
            params.extend(add_expert(expert, &module, settings, &device)?);
        }
        self.params.extend(params);
        Ok(())
    }
}

fn add(linear: &mut Linear, settings: &LoraSettings) -> Result<Vec<Arc<Param>>> {
    let ((i, o), r) = (linear.dims(), settings.rank);
    let weight = linear.weight.get(DType::F32)?;
    let [a, b] = settings.pair(&linear.name, [[r, i], [o, r]], i, weight.device())?;
    let mut params = vec![a.clone(), b.clone()];
    let magnitude = if settings.use_dora {
        let norm = weight.sqr()?.sum(1)?.sqrt()?;
        let name = format!("base_model.model.{}.lora_magnitude_vector", linear.name);
        let magnitude = Param::new(name, &norm, true)?;
        params.push(magnitude.clone());
        Some(magnitude)
    } else {
        None
    };
    let (scale, dropout) = (settings.scale(), settings.dropout as f32);
    linear.lora = Some(Lora {
        a,
        b,
        magnitude,
        scale,
        dropout,
    });
    Ok(params)
}

fn add_expert(
    expert: &mut ExpertLinear,
    module: &str,
    settings: &LoraSettings,
    device: &Device,
) -> Result<[Arc<Param>; 2]> {
    let ((e, i, o), r) = (expert.dims(), settings.rank);
    let [a, b] = settings.pair(module, [[r * e, i], [o, r * e]], i, device)?;
    expert.lora = Some(ExpertLora {
        a: a.clone(),
        b: b.clone(),
        scale: settings.scale(),
        experts: e,
    });
    Ok([a, b])
}
