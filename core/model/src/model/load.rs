//! Builds a model from a source of weights.

use super::updates::PREFIX;
use super::{CausalLm, check_device};
use crate::families::{
    Architecture, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, ModelConfig,
};
use crate::nn::{
    Angles, Attention, BlockTuners, Decoder, DecoderLayer, DenseMlp, Embedding, ExpertLinear,
    ExpertWeight, Head, Linear, Mixture, Mlp, Norm, Param, Projections, QkNorms, Sharded, Sharding,
    Unit, UnitBuilder, Units, Weight, decays,
};
use crate::ops::mxfp4;
use crate::tensors::{ExpertMatrix, FileTensor, Role, TensorList, TensorSpec};
use crate::weights::WeightSource;
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
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
    /// How the large frozen matrices are spread over ranks, if they are.
    pub sharding: Option<Sharding>,
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
            sharding: None,
        }
    }
}

struct Loader<'a> {
    architecture: &'a Architecture,
    list: &'a TensorList,
    source: &'a dyn WeightSource,
    options: &'a LoadOptions,
    params: Vec<Arc<Param>>,
    /// The layer or head that is being read, if the base is spread over ranks.
    unit: Option<UnitBuilder<'a>>,
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

    fn weight(&mut self, spec: &'a TensorSpec) -> Result<Weight> {
        let (name, shape) = (&spec.name, &spec.shape);
        let LoadOptions { device, dtype, .. } = self.options;
        if let Some(sharded) = self.sharded(spec, (name.clone(), *dtype, shape)) {
            return Ok(Weight::Sharded(sharded));
        }
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

    /// Begins a layer or the head, whose large frozen matrices may be spread over ranks.
    fn begin_unit(&mut self, name: String) {
        let sharding = self.options.sharding.as_ref();
        self.unit = sharding.map(|sharding| UnitBuilder::new(name, sharding));
    }

    /// Reads what this rank keeps of it.
    fn end_unit(&mut self) -> Result<Option<Arc<Unit>>> {
        let unit = self.unit.take();
        unit.map(|unit| unit.finish(&self.options.device))
            .transpose()
    }

    /// What follows is used as one tensor, and begins at an address that kernels can take.
    fn begin_group(&mut self) {
        if let Some(unit) = &mut self.unit {
            unit.align();
        }
    }

    /// A tensor of the file as one that is spread over ranks, if it is.
    fn sharded(
        &mut self,
        spec: &TensorSpec,
        (name, dtype, shape): (String, DType, &'a [usize]),
    ) -> Option<Sharded> {
        if !spec.is_shardable() || self.trained(spec).is_some() {
            return None;
        }
        let (source, device) = (self.source, &self.options.device);
        let file = name.clone();
        let read =
            move |elements: Range<usize>| source.part(&file, (shape, dtype), elements, device);
        let unit = self.unit.as_mut()?;
        Some(unit.add(&name, dtype, shape, Box::new(read)))
    }

    /// The same for matrices of experts that are kept in another layout than their file's, `[E, outputs, inputs]`: `make` reads all
    /// of them.
    fn turned(
        &mut self,
        spec: &'a TensorSpec,
        make: impl Fn() -> Result<Tensor> + 'a,
    ) -> Result<Option<Sharded>> {
        if self.trained(spec).is_some() {
            return Ok(None);
        }
        let (Some(unit), &[experts, inputs, outputs]) = (&mut self.unit, spec.shape.as_slice())
        else {
            return Ok(None);
        };
        let (dtype, device) = (self.options.dtype, &self.options.device);
        let read = move |elements: Range<usize>| {
            if elements.is_empty() {
                return Ok(Tensor::zeros(0, dtype, device)?);
            }
            let all = make()?.flatten_all()?;
            // A copy, so that the whole does not stay.
            Ok(all.narrow(0, elements.start, elements.len())?.copy()?)
        };
        let stored = [experts, outputs, inputs];
        let sharded = unit.add(&spec.name, dtype, &stored, Box::new(read));
        sharded.transposed().map(Some)
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
            tuned: None,
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
            tuned: None,
            unpacked_at_once: None,
        })
    }

    fn matrix(&mut self, spec: &'a TensorSpec) -> Result<ExpertWeight> {
        let LoadOptions {
            device,
            dtype,
            experts,
            ..
        } = self.options;
        let source = self.source;
        self.begin_group();
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
        if *experts == ExpertsDtype::Mxfp4 && self.trained(spec).is_none() {
            return Ok(ExpertWeight::Packed {
                blocks: self.bytes(blocks)?,
                scales: self.bytes(scales)?,
            });
        }
        let read = move |tensor: &FileTensor| {
            let FileTensor { name, shape, .. } = tensor;
            source.tensor(name, shape, DType::U8, device)
        };
        let unpacked = move || {
            let dense = mxfp4::dequantize(&read(&blocks)?, &read(&scales)?)?;
            Ok(dense.to_dtype(*dtype)?)
        };
        if let Some(sharded) = self.turned(spec, unpacked.clone())? {
            return Ok(ExpertWeight::Dense(Weight::Sharded(sharded)));
        }
        // A transposed view is enough, since grouped products take both layouts.
        let dense = unpacked()?.transpose(1, 2)?;
        Ok(ExpertWeight::Dense(self.dense(spec, Some(dense))?))
    }

    /// Blocks or scales.
    fn bytes(&mut self, tensor: FileTensor) -> Result<Weight> {
        let (source, device) = (self.source, &self.options.device);
        let FileTensor { name, shape, .. } = tensor;
        let Some(unit) = &mut self.unit else {
            let bytes = source.tensor(&name, &shape, DType::U8, device)?;
            return Ok(Weight::Frozen(bytes));
        };
        unit.align();
        let (file, whole) = (name.clone(), shape.clone());
        let read =
            move |elements: Range<usize>| source.part(&file, (&whole, DType::U8), elements, device);
        Ok(Weight::Sharded(unit.add(
            &name,
            DType::U8,
            &shape,
            Box::new(read),
        )))
    }

    fn dense(&mut self, spec: &'a TensorSpec, value: Option<Tensor>) -> Result<Weight> {
        let LoadOptions { device, dtype, .. } = self.options;
        let (name, prefix) = (&spec.name, self.trained(spec));
        if value.is_none() {
            let source = self.source;
            // Products with low-rank updates need the layout that MXFP4 has.
            let whole = move || {
                let whole = source.tensor(&spec.name, &spec.shape, *dtype, device)?;
                Ok(whole.transpose(1, 2)?.contiguous()?)
            };
            let sharded = match device.is_cuda() {
                true => self.turned(spec, whole)?,
                false => self.sharded(spec, (name.clone(), *dtype, &spec.shape)),
            };
            if let Some(sharded) = sharded {
                return Ok(Weight::Sharded(sharded));
            }
        }
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
            tuned: BlockTuners::default(),
        })
    }

    fn projections(&mut self, layer: usize) -> Result<(Projections<3>, Projections<1>)> {
        self.begin_group();
        let mut projection = |role| self.linear(Some(layer), role);
        let qkv = [
            projection(Role::Query)?,
            projection(Role::Key)?,
            projection(Role::Value)?,
        ];
        self.begin_group();
        let output = [self.linear(Some(layer), Role::Output)?];
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
        self.begin_group();
        let mut projection = |role| self.linear(Some(layer), role);
        let gate_up = [projection(Role::Gate)?, projection(Role::Up)?];
        self.begin_group();
        let down = [self.linear(Some(layer), Role::Down)?];
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
            tuned: None,
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
            unit: None,
        };
        let mut units = Vec::new();
        let embed = loader.weight(loader.spec(None, Role::Embedding)?)?;
        let mut layers = Vec::with_capacity(architecture.layers.len());
        for index in 0..architecture.layers.len() {
            let context = || format!("layer {index}");
            loader.begin_unit(context());
            layers.push(loader.layer(index).with_context(context)?);
            units.extend(loader.end_unit().with_context(context)?);
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
                tuned: None,
            },
            false => {
                loader.begin_unit("the output head".to_owned());
                loader.linear(None, Role::Head)?
            }
        };
        units.extend(loader.end_unit().context("the output head")?);
        let LoadOptions {
            device,
            dtype,
            sharding,
            ..
        } = options;
        let sharding = sharding.as_ref();
        let units = sharding.map(|sharding| Units::new(units, sharding));
        Ok(Self {
            config: config.clone(),
            decoder: Decoder {
                embedding: Embedding::new(embed, device, *dtype),
                layers,
                angles: Angles::new(architecture, device),
                device: device.clone(),
                lowest_trained: Default::default(),
                units,
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
