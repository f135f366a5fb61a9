//! Builds a model from a source of weights.

use super::{CausalLm, check_device};
use crate::families::{
    Architecture, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, ModelConfig,
};
use crate::nn::{
    Angles, Attention, Decoder, DecoderLayer, DenseMlp, Embedding, ExpertLinear, ExpertWeight,
    Head, Linear, Mixture, Mlp, Norm, Param, Projections, QkNorms, Weight, decays,
};
use crate::ops::mxfp4;
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
    source: &'a dyn WeightSource,
    options: &'a LoadOptions,
    params: Vec<Arc<Param>>,
}

impl Loader<'_> {
    /// The prefix of a trained module's name, or `None` if the module is frozen.
    fn trained(&self, module: &str) -> Option<&'static str> {
        match &self.options.training {
            Training::Full => Some(""),
            Training::Adapters(modules) => modules
                .iter()
                .any(|m| m == module)
                .then_some("base_model.model."),
        }
    }

    fn weight(&mut self, module: &str, suffix: &str, shape: &[usize]) -> Result<Weight> {
        let name = format!("{module}{suffix}");
        let LoadOptions { device, dtype, .. } = self.options;
        match self.trained(module) {
            None => Ok(Weight::Frozen(
                self.source.tensor(&name, shape, *dtype, device)?,
            )),
            Some(prefix) => {
                let value = self.source.tensor(&name, shape, DType::F32, device)?;
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

    fn linear(
        &mut self,
        name: String,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear> {
        let weight = self.weight(&name, ".weight", &[outputs, inputs])?;
        let bias = if bias {
            Some(self.weight(&name, ".bias", &[outputs])?)
        } else {
            None
        };
        Ok(Linear {
            name,
            weight,
            bias,
            lora: None,
        })
    }

    fn norm(&mut self, name: String, width: usize) -> Result<Norm> {
        let weight = self.weight(&name, ".weight", &[width])?;
        Ok(Norm {
            name,
            weight,
            eps: self.architecture.rms_norm_eps,
        })
    }

    fn experts(
        &mut self,
        module: &str,
        part: &str,
        [experts, inputs, outputs]: [usize; 3],
        bias: bool,
    ) -> Result<ExpertLinear> {
        let name = format!("{module}.{part}");
        let bias = match bias {
            true => Some(self.weight(module, &format!(".{part}_bias"), &[experts, outputs])?),
            false => None,
        };
        let matrix = self.matrix(module, &name, [experts, inputs, outputs])?;
        Ok(ExpertLinear {
            name,
            matrix,
            bias,
            lora: None,
        })
    }

    fn matrix(&mut self, module: &str, name: &str, [e, i, o]: [usize; 3]) -> Result<ExpertWeight> {
        let LoadOptions {
            device,
            dtype,
            experts,
            ..
        } = self.options;
        let packed = format!("{name}_blocks");
        if !self.source.contains(&packed) {
            return Ok(ExpertWeight::Dense(self.dense(
                module,
                name,
                None,
                [e, i, o],
            )?));
        }
        ensure!(
            i.is_multiple_of(32),
            "{packed}: {i} inputs are no multiple of 32"
        );
        let blocks = self
            .source
            .tensor(&packed, &[e, o, i / 32, 16], DType::U8, device)?;
        let scales = format!("{name}_scales");
        let scales = self
            .source
            .tensor(&scales, &[e, o, i / 32], DType::U8, device)?;
        if *experts == ExpertsDtype::Mxfp4 && self.trained(module).is_none() {
            return Ok(ExpertWeight::Packed { blocks, scales });
        }
        // A transposed view is enough, since grouped products take both layouts.
        let dense = mxfp4::dequantize(&blocks, &scales)?.to_dtype(*dtype)?;
        let dense = dense.transpose(1, 2)?;
        Ok(ExpertWeight::Dense(self.dense(
            module,
            name,
            Some(dense),
            [e, i, o],
        )?))
    }

    fn dense(
        &mut self,
        module: &str,
        name: &str,
        value: Option<Tensor>,
        shape: [usize; 3],
    ) -> Result<Weight> {
        let LoadOptions { device, dtype, .. } = self.options;
        let prefix = self.trained(module);
        let value = match value {
            Some(value) => value,
            None => {
                let dtype = if prefix.is_some() { DType::F32 } else { *dtype };
                self.source.tensor(name, &shape, dtype, device)?
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
        let h = self.architecture.hidden_size;
        let LayerSpec { attention, mlp } = &self.architecture.layers[index];
        let path = format!("model.layers.{index}");
        // The order of loading is that of the parameters, which sums over them follow.
        let projections = self.projections(&format!("{path}.self_attn"), attention)?;
        Ok(DecoderLayer {
            input_norm: self.norm(format!("{path}.input_layernorm"), h)?,
            attention: self.attention(&format!("{path}.self_attn"), attention, projections)?,
            post_norm: self.norm(format!("{path}.post_attention_layernorm"), h)?,
            mlp: match mlp {
                MlpSpec::Dense(dense) => {
                    Mlp::Dense(Box::new(self.dense_mlp(&format!("{path}.mlp"), dense)?))
                }
                MlpSpec::Mixture(mixture) => {
                    Mlp::Mixture(Box::new(self.mixture(&format!("{path}.mlp"), mixture)?))
                }
            },
        })
    }

    fn projections(
        &mut self,
        path: &str,
        spec: &AttentionSpec,
    ) -> Result<(Projections<3>, Projections<1>)> {
        let h = self.architecture.hidden_size;
        let mut projection = |name: &str, inputs: usize, outputs: usize, bias: bool| {
            self.linear(format!("{path}.{name}"), inputs, outputs, bias)
        };
        let qkv = [
            projection("q_proj", h, spec.width(), spec.qkv_bias)?,
            projection("k_proj", h, spec.kv_width(), spec.qkv_bias)?,
            projection("v_proj", h, spec.kv_width(), spec.qkv_bias)?,
        ];
        let output = [projection("o_proj", spec.width(), h, spec.output_bias)?];
        Ok((Projections::new(qkv)?, Projections::new(output)?))
    }

    fn attention(
        &mut self,
        path: &str,
        spec: &AttentionSpec,
        (qkv, output): (Projections<3>, Projections<1>),
    ) -> Result<Attention> {
        let heads = spec.heads;
        let qk_norms = match spec.qk_norms {
            true => Some(QkNorms {
                q_norm: self.norm(format!("{path}.q_norm"), heads.dim)?,
                k_norm: self.norm(format!("{path}.k_norm"), heads.dim)?,
            }),
            false => None,
        };
        let sinks = match spec.sinks {
            true => Some(self.weight(path, ".sinks", &[heads.q])?),
            false => None,
        };
        Ok(Attention {
            qkv,
            output,
            qk_norms,
            sinks,
            heads,
            window: spec.window,
        })
    }

    fn dense_mlp(&mut self, path: &str, spec: &DenseSpec) -> Result<DenseMlp> {
        let (h, f) = (self.architecture.hidden_size, spec.intermediate_size);
        let mut projection = |name: &str, inputs: usize, outputs: usize| {
            self.linear(format!("{path}.{name}"), inputs, outputs, spec.bias)
        };
        let gate_up = [projection("gate_proj", h, f)?, projection("up_proj", h, f)?];
        let down = [projection("down_proj", f, h)?];
        Ok(DenseMlp {
            gate_up: Projections::new(gate_up)?,
            down: Projections::new(down)?,
            activation: spec.activation,
        })
    }

    fn mixture(&mut self, path: &str, spec: &MixtureSpec) -> Result<Mixture> {
        let h = self.architecture.hidden_size;
        let (e, f) = (spec.experts, spec.intermediate_size);
        let experts = format!("{path}.experts");
        let router = format!("{path}.router");
        Ok(Mixture {
            router: self.linear(router, h, e, spec.router_bias)?,
            gate_up: self.experts(&experts, "gate_up_proj", [e, h, 2 * f], spec.bias)?,
            down: self.experts(&experts, "down_proj", [e, f, h], spec.bias)?,
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
        check_device(&config.architecture, &options.device)?;
        let mut loader = Loader {
            architecture: &config.architecture,
            source,
            options,
            params: Vec::new(),
        };
        let Architecture {
            hidden_size: h,
            vocab_size: v,
            ..
        } = config.architecture;
        let embed = loader.weight("model.embed_tokens", ".weight", &[v, h])?;
        let mut layers = Vec::with_capacity(config.architecture.layers.len());
        for index in 0..config.architecture.layers.len() {
            layers.push(
                loader
                    .layer(index)
                    .with_context(|| format!("layer {index}"))?,
            );
            progress(index + 1);
        }
        let norm = loader.norm("model.norm".to_owned(), h)?;
        let tied = config.architecture.tie_word_embeddings;
        let lm_head = match tied {
            true => Linear {
                name: "lm_head".to_owned(),
                weight: embed.clone(),
                bias: None,
                lora: None,
            },
            false => loader.linear("lm_head".to_owned(), h, v, false)?,
        };
        let LoadOptions { device, dtype, .. } = options;
        Ok(Self {
            config: config.clone(),
            decoder: Decoder {
                embedding: Embedding::new(embed, device, *dtype),
                layers,
                angles: Angles::new(&config.architecture, device),
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
