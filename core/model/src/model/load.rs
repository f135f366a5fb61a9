//! Builds a model from a source of weights.

use super::updates::PREFIX;
use super::{CausalLm, check_device};
use crate::families::{
    Architecture, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, ModelConfig,
};
use crate::nn::{
    Angles, Attention, Decoder, DecoderLayer, DenseMlp, Embedding, ExpertLinear, ExpertWeight,
    Head, Linear, Mixture, Mlp, Norm, Param, Projections, QkNorms, Weight, decays,
};
use crate::ops::mxfp4;
use crate::tensors::{ExpertMatrix, FileTensor, Role, TensorList, TensorSpec};
use crate::weights::WeightSource;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// How expert matrices are stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertsDtype {
    /// They are packed if the checkpoint has them packed, and unpacked one layer at a time.
    Mxfp4,
    /// They are dense in the compute type.
    Dense,
}

/// Which of the model's own weights are trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Training {
    /// Only the modules of these paths (`modules_to_save`), beside adapters.
    Adapters(Vec<String>),
    /// All weights.
    Full,
}

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device that the model is put on.
    pub device: Device,
    /// The compute type of weights and activations: f32 on the CPU, bf16 on CUDA.
    pub dtype: DType,
    /// How expert matrices are stored.
    pub experts: ExpertsDtype,
    /// Which weights are trained.
    pub training: Training,
}

impl LoadOptions {
    /// Options for a model of which nothing is trained, with experts as the checkpoint stores them, in the compute type
    /// of the device.
    pub fn frozen(device: &Device) -> Self {
        let dtype = if device.is_cuda() {
            DType::BF16
        } else {
            DType::F32
        };
        Self {
            device: device.clone(),
            dtype,
            experts: ExpertsDtype::Mxfp4,
            training: Training::Adapters(Vec::new()),
        }
    }
}

struct Loader<'a> {
    architecture: &'a Architecture,
    list: &'a TensorList,
    source: &'a dyn WeightSource,
    options: &'a LoadOptions,
    params: Vec<Arc<Param>>,
}

/// What a layer has one of, by its layer; `None` is outside all layers.
type Place = Option<usize>;

impl<'a> Loader<'a> {
    /// The weight with this role.
    fn spec(&self, layer: Place, role: Role) -> Result<&'a TensorSpec> {
        let found = self.list.weight(layer, role);
        found.with_context(|| format!("the family of this model lists no tensor for {role:?}"))
    }

    /// The prefix of a trained tensor's name, or `None` if the tensor is frozen.
    fn trained(&self, spec: &TensorSpec) -> Option<&'static str> {
        match &self.options.training {
            Training::Full => Some(""),
            Training::Adapters(modules) => modules
                .iter()
                .any(|module| module == spec.module())
                .then_some(PREFIX),
        }
    }

    fn weight(&mut self, spec: &TensorSpec) -> Result<Weight> {
        let (name, shape) = (&spec.name, &spec.shape);
        let LoadOptions { device, dtype, .. } = self.options;
        match self.trained(spec) {
            None => Ok(Weight::Frozen(
                self.source.tensor(name, shape, *dtype, device)?,
            )),
            Some(prefix) => {
                let value = self.source.tensor(name, shape, DType::F32, device)?;
                self.register(format!("{prefix}{name}"), &value)
            }
        }
    }

    fn register(&mut self, name: String, value: &Tensor) -> Result<Weight> {
        let decay = decays(&name);
        let param = Param::new(name, value, decay)?;
        self.params.push(param.clone());
        Ok(Weight::Trainable(param))
    }

    fn linear(&mut self, layer: Place, role: Role) -> Result<Linear> {
        let spec = self.spec(layer, role)?;
        let weight = self.weight(spec)?;
        let bias = self.list.bias(layer, role);
        Ok(Linear {
            name: spec.module().to_owned(),
            weight,
            bias: bias.map(|spec| self.weight(spec)).transpose()?,
            lora: None,
        })
    }

    fn norm(&mut self, layer: Place, role: Role) -> Result<Norm> {
        let spec = self.spec(layer, role)?;
        Ok(Norm {
            name: spec.module().to_owned(),
            weight: self.weight(spec)?,
            eps: self.architecture.rms_norm_eps,
        })
    }

    fn experts(&mut self, layer: usize, matrix: ExpertMatrix) -> Result<ExpertLinear> {
        let (layer, role) = (Some(layer), Role::Experts(matrix));
        let spec = self.spec(layer, role)?;
        let bias = self.list.bias(layer, role);
        let bias = bias.map(|spec| self.weight(spec)).transpose()?;
        Ok(ExpertLinear {
            name: spec.name.clone(),
            matrix: self.matrix(spec)?,
            bias,
            lora: None,
        })
    }

    fn matrix(&mut self, spec: &TensorSpec) -> Result<ExpertWeight> {
        let LoadOptions {
            device,
            dtype,
            experts,
            ..
        } = self.options;
        let Some([blocks, scales]) = spec.packed().filter(|_| self.source.is_packed(spec)) else {
            return Ok(ExpertWeight::Dense(self.dense(spec, None)?));
        };
        if let Some((inputs, _)) = spec.dims() {
            ensure!(
                inputs.is_multiple_of(32),
                "{}: {inputs} inputs are no multiple of 32",
                blocks.name
            );
        }
        let read = |tensor: &FileTensor| {
            let FileTensor { name, shape, .. } = tensor;
            self.source.tensor(name, shape, DType::U8, device)
        };
        let (blocks, scales) = (read(&blocks)?, read(&scales)?);
        if *experts == ExpertsDtype::Mxfp4 && self.trained(spec).is_none() {
            return Ok(ExpertWeight::Packed { blocks, scales });
        }
        // A transposed view is enough, since grouped products take both layouts.
        let dense = mxfp4::dequantize(&blocks, &scales)?.to_dtype(*dtype)?;
        let dense = dense.transpose(1, 2)?;
        Ok(ExpertWeight::Dense(self.dense(spec, Some(dense))?))
    }

    fn dense(&mut self, spec: &TensorSpec, value: Option<Tensor>) -> Result<Weight> {
        let LoadOptions { device, dtype, .. } = self.options;
        let (name, prefix) = (&spec.name, self.trained(spec));
        let value = match value {
            Some(value) => value,
            None => {
                let dtype = if prefix.is_some() { DType::F32 } else { *dtype };
                self.source.tensor(name, &spec.shape, dtype, device)?
            }
        };
        match prefix {
            // Products with low-rank updates need the layout that MXFP4 has.
            None if value.device().is_cuda() && value.is_contiguous() => {
                let turned = value.transpose(1, 2)?.contiguous()?;
                Ok(Weight::Frozen(turned.transpose(1, 2)?))
            }
            None => Ok(Weight::Frozen(value)),
            Some(prefix) => self.register(format!("{prefix}{name}"), &value),
        }
    }

    fn layer(&mut self, index: usize) -> Result<DecoderLayer> {
        let LayerSpec { attention, mlp } = &self.architecture.layers[index];
        // The order of loading is that of the parameters, which sums over them follow.
        let projections = self.projections(index)?;
        Ok(DecoderLayer {
            input_norm: self.norm(Some(index), Role::AttentionNorm)?,
            attention: self.attention(index, attention, projections)?,
            post_norm: self.norm(Some(index), Role::MlpNorm)?,
            mlp: match mlp {
                MlpSpec::Dense(dense) => Mlp::Dense(Box::new(self.dense_mlp(index, dense)?)),
                MlpSpec::Mixture(mixture) => Mlp::Mixture(Box::new(self.mixture(index, mixture)?)),
            },
        })
    }

    fn projections(&mut self, layer: usize) -> Result<(Projections<3>, Projections<1>)> {
        let mut projection = |role| self.linear(Some(layer), role);
        let qkv = [
            projection(Role::Query)?,
            projection(Role::Key)?,
            projection(Role::Value)?,
        ];
        let output = [projection(Role::Output)?];
        Ok((Projections::new(qkv)?, Projections::new(output)?))
    }

    fn attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        (qkv, output): (Projections<3>, Projections<1>),
    ) -> Result<Attention> {
        let layer = Some(layer);
        let qk_norms = match spec.qk_norms {
            true => Some(QkNorms {
                q_norm: self.norm(layer, Role::QueryNorm)?,
                k_norm: self.norm(layer, Role::KeyNorm)?,
            }),
            false => None,
        };
        let sinks = match spec.sinks {
            true => Some(self.weight(self.spec(layer, Role::Sinks)?)?),
            false => None,
        };
        Ok(Attention {
            qkv,
            output,
            qk_norms,
            sinks,
            heads: spec.heads,
            window: spec.window,
        })
    }

    fn dense_mlp(&mut self, layer: usize, spec: &DenseSpec) -> Result<DenseMlp> {
        let mut projection = |role| self.linear(Some(layer), role);
        let gate_up = [projection(Role::Gate)?, projection(Role::Up)?];
        let down = [projection(Role::Down)?];
        Ok(DenseMlp {
            gate_up: Projections::new(gate_up)?,
            down: Projections::new(down)?,
            activation: spec.activation,
        })
    }

    fn mixture(&mut self, layer: usize, spec: &MixtureSpec) -> Result<Mixture> {
        Ok(Mixture {
            router: self.linear(Some(layer), Role::Router)?,
            gate_up: self.experts(layer, ExpertMatrix::GateUp)?,
            down: self.experts(layer, ExpertMatrix::Down)?,
            experts_per_token: spec.experts_per_token,
            activation: spec.activation,
        })
    }
}

impl CausalLm {
    /// Loads a model. `progress` is called after each layer.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or a layer cannot be computed on the device; the error names it.
    pub fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        options: &LoadOptions,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let architecture = &config.architecture;
        check_device(architecture, &options.device)?;
        let mut loader = Loader {
            architecture,
            list: &config.tensors(),
            source,
            options,
            params: Vec::new(),
        };
        let embed = loader.weight(loader.spec(None, Role::Embedding)?)?;
        let mut layers = Vec::with_capacity(architecture.layers.len());
        for index in 0..architecture.layers.len() {
            layers.push(
                loader
                    .layer(index)
                    .with_context(|| format!("layer {index}"))?,
            );
            progress(index + 1);
        }
        let norm = loader.norm(None, Role::FinalNorm)?;
        let tied = architecture.tie_word_embeddings;
        let lm_head = match tied {
            true => Linear {
                name: loader.list.head().to_owned(),
                weight: embed.clone(),
                bias: None,
                lora: None,
            },
            false => loader.linear(None, Role::Head)?,
        };
        let LoadOptions { device, dtype, .. } = options;
        Ok(Self {
            config: config.clone(),
            decoder: Decoder {
                embedding: Embedding::new(embed, device, *dtype),
                layers,
                angles: Angles::new(architecture, device),
                device: device.clone(),
            },
            head: Head {
                norm,
                lm_head,
                tied,
            },
            dtype: *dtype,
            params: loader.params,
        })
    }
}
