//! The tensors of a model as a step of few rows reads them, found once.

use crate::nn::{
    Decoder, DecoderLayer, ExpertLinear, ExpertWeight, Head, Linear, Mixture, Mlp, Norm,
    Projections, Weight,
};
use crate::ops::Heads;
use crate::ops::rows::{Layer, Matrices, Matrix};
use crate::ops::swiglu::Activation;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// The norm before something.
#[derive(Debug)]
pub struct NormWeights {
    pub w: Tensor,
    pub eps: f64,
}

/// A matrix `[O, I]` and its bias.
#[derive(Debug)]
pub struct MatrixWeights {
    w: Tensor,
    bias: Option<Tensor>,
}

/// The matrices of all experts and their biases.
#[derive(Debug)]
pub struct ExpertsWeights {
    matrices: OwnedMatrices,
    bias: Option<Tensor>,
    /// The number of outputs.
    pub outputs: usize,
}

#[derive(Debug)]
enum OwnedMatrices {
    Packed {
        blocks: Tensor,
        scales: Tensor,
    },
    /// `[E, O, I]`.
    Dense(Tensor),
}

/// A layer.
#[derive(Debug)]
pub struct LayerWeights {
    pub attention_norm: NormWeights,
    pub qkv: MatrixWeights,
    /// Minus infinity where a head has none.
    pub sinks: Tensor,
    pub heads: Heads,
    pub window: Option<usize>,
    pub output: MatrixWeights,
    pub mlp_norm: NormWeights,
    pub router: MatrixWeights,
    pub experts_per_token: usize,
    pub experts: usize,
    pub gate_up: ExpertsWeights,
    pub activation: Activation,
    pub down: ExpertsWeights,
}

/// A model.
#[derive(Debug)]
pub struct ModelWeights {
    pub layers: Vec<LayerWeights>,
    pub final_norm: NormWeights,
    pub head: MatrixWeights,
}

impl ModelWeights {
    /// Finds the tensors of a model; `None` if a step of few rows cannot be computed with them: weights that are trained or spread
    /// over ranks, norms of queries and keys, MLPs that are no mixtures, layers of several sizes.
    pub fn find(decoder: &Decoder, head: &Head, dtype: DType) -> Result<Option<Self>> {
        let device = &decoder.device;
        let find = Find { dtype, device };
        let layers = decoder.layers.iter().map(|layer| find.layer(layer));
        let Some(layers) = layers.collect::<Result<Option<Vec<_>>>>()? else {
            return Ok(None);
        };
        // All layers use the same memory.
        let sizes = |layer: &LayerWeights| {
            (
                (layer.heads, layer.experts, layer.experts_per_token),
                (layer.gate_up.outputs, layer.down.outputs),
            )
        };
        if !layers.iter().all(|layer| sizes(layer) == sizes(&layers[0])) {
            return Ok(None);
        }
        let (Some(final_norm), Some(head)) = (find.norm(&head.norm)?, find.linear(&head.lm_head)?)
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            layers,
            final_norm,
            head,
        }))
    }
}

/// Whether it computes more than its product and a low-rank update.
fn is_special(linear: &Linear) -> bool {
    let lora = linear.lora.as_ref();
    linear.tuned.is_some() || lora.is_some_and(|lora| lora.magnitude.is_some())
}

struct Find<'a> {
    dtype: DType,
    device: &'a Device,
}

impl Find<'_> {
    fn weight(&self, weight: &Weight) -> Result<Option<Tensor>> {
        match weight {
            Weight::Frozen(tensor) => Ok(Some(tensor.to_dtype(self.dtype)?)),
            Weight::Sharded(_) | Weight::Trainable(_) => Ok(None),
        }
    }

    /// `None` without a weight, `Some(None)` without one that is frozen.
    fn optional(&self, weight: Option<&Weight>) -> Result<Option<Option<Tensor>>> {
        match weight {
            None => Ok(Some(None)),
            Some(weight) => Ok(self.weight(weight)?.map(Some)),
        }
    }

    fn norm(&self, norm: &Norm) -> Result<Option<NormWeights>> {
        let w = self.weight(&norm.weight)?;
        Ok(w.map(|w| NormWeights { w, eps: norm.eps }))
    }

    fn linear(&self, linear: &Linear) -> Result<Option<MatrixWeights>> {
        let (w, bias) = (
            self.weight(&linear.weight)?,
            self.optional(linear.bias.as_ref())?,
        );
        Ok(w.zip(bias)
            .filter(|_| !is_special(linear))
            .map(|(w, bias)| MatrixWeights { w, bias }))
    }

    /// Matrices that read the same input, which are one in memory.
    fn joined(&self, projections: &Projections<3>) -> Result<Option<MatrixWeights>> {
        let mut layers = projections.layers().iter();
        let Some((weight, bias)) = projections.joined().filter(|_| !layers.any(is_special)) else {
            return Ok(None);
        };
        let bias = bias.map(|bias| bias.to_dtype(self.dtype)).transpose()?;
        Ok(self.weight(weight)?.map(|w| MatrixWeights { w, bias }))
    }

    fn experts(&self, experts: &ExpertLinear) -> Result<Option<ExpertsWeights>> {
        let matrices = match &experts.matrix {
            ExpertWeight::Packed {
                blocks: Weight::Frozen(blocks),
                scales: Weight::Frozen(scales),
            } => OwnedMatrices::Packed {
                blocks: blocks.contiguous()?,
                scales: scales.contiguous()?,
            },
            ExpertWeight::Dense(weight) => match self.weight(weight)? {
                // Kernels read [E, O, I]; a copy would double the memory of the experts.
                Some(w) if self.device.is_cpu() || w.transpose(1, 2)?.is_contiguous() => {
                    OwnedMatrices::Dense(w.transpose(1, 2)?)
                }
                _ => return Ok(None),
            },
            ExpertWeight::Packed { .. } => return Ok(None),
        };
        let bias = self.optional(experts.bias.as_ref())?;
        Ok(bias.map(|bias| ExpertsWeights {
            matrices,
            bias,
            outputs: experts.dims().2,
        }))
    }

    fn layer(&self, layer: &DecoderLayer) -> Result<Option<LayerWeights>> {
        let (attention, Mlp::Mixture(mixture)) = (&layer.attention, &layer.mlp) else {
            return Ok(None);
        };
        let Mixture {
            router,
            gate_up,
            down,
            experts_per_token,
            activation,
            tuned: _,
        } = mixture.as_ref();
        if attention.qk_norms.is_some() || router.lora.is_some() || layer.has_tuned_block() {
            return Ok(None);
        }
        let [output] = attention.output.layers();
        let found = (|| {
            Ok::<_, anyhow::Error>((
                self.norm(&layer.input_norm)?,
                self.joined(&attention.qkv)?,
                self.optional(attention.sinks.as_ref())?,
                self.linear(output)?,
                self.norm(&layer.post_norm)?,
                self.linear(router)?,
                self.experts(gate_up)?,
                self.experts(down)?,
            ))
        })()?;
        let (
            Some(attention_norm),
            Some(qkv),
            Some(sinks),
            Some(output),
            Some(mlp_norm),
            Some(router),
            Some(gate_up_weights),
            Some(down),
        ) = found
        else {
            return Ok(None);
        };
        Ok(Some(LayerWeights {
            attention_norm,
            qkv,
            sinks: match sinks {
                Some(sinks) => sinks,
                None => Tensor::full(f32::NEG_INFINITY, attention.heads.q, self.device)?
                    .to_dtype(self.dtype)?,
            },
            heads: attention.heads,
            window: attention.window,
            output,
            mlp_norm,
            router,
            experts_per_token: *experts_per_token,
            experts: gate_up.dims().0,
            gate_up: gate_up_weights,
            activation: *activation,
            down,
        }))
    }
}

impl NormWeights {
    /// As the operation takes it.
    pub fn get(&self) -> (&Tensor, f64) {
        (&self.w, self.eps)
    }
}

impl MatrixWeights {
    /// As the operation takes it.
    pub fn get(&self) -> Matrix<'_> {
        Matrix {
            w: &self.w,
            bias: self.bias.as_ref(),
            residual: None,
        }
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.w.dims()[0]
    }
}

impl ExpertsWeights {
    /// As the operation takes it, with what is added to its outputs.
    pub fn get<'a>(&'a self, low_rank: Option<&'a Tensor>) -> Layer<'a> {
        Layer {
            matrices: match &self.matrices {
                OwnedMatrices::Packed { blocks, scales } => Matrices::Packed { blocks, scales },
                OwnedMatrices::Dense(w) => Matrices::Dense(w),
            },
            bias: self.bias.as_ref(),
            low_rank,
        }
    }
}
