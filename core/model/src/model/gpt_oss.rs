//! The whole model: embedding, layers and head. Forward goes layer by layer, backward in reverse.

use super::attention::{BatchLayout, DecodeLayout, LayerKvCache};
use super::experts::{ExpertLinear, ExpertWeight};
use super::head::Head;
use super::layer::{DecoderLayer, Kept};
use super::linear::Linear;
use super::neftune::Neftune;
use super::param::{Param, Weight};
use super::yarn::Angles;
use crate::families::{MlpSpec, ModelConfig};
use crate::ops::{Groups, SeqLayout};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// A gpt-oss model.
pub struct GptOss {
    pub(super) config: ModelConfig,
    pub(super) embed: Weight,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) head: Head,
    pub(super) angles: Angles,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) params: Vec<Arc<Param>>,
}

/// How to run forward.
#[derive(Debug, Clone, Default)]
pub struct ForwardOptions {
    /// Whether to keep what the backward pass needs.
    pub training: bool,
    /// The number of layers, counted from the last, that keep their tape; the others keep their input and run again.
    pub kept_layers: usize,
    /// The seed of dropout; `None` switches dropout off.
    pub dropout_seed: Option<u64>,
    /// The weight of the router's auxiliary loss; 0 leaves it out.
    pub aux_coef: f64,
    /// The noise on the embeddings, if there is any.
    pub neftune: Option<Neftune>,
}

/// What a forward pass keeps for the backward pass.
pub struct Pass {
    ids: Tensor,
    batch: BatchLayout,
    options: ForwardOptions,
    layers: Vec<Kept>,
    aux: Option<Aux>,
}

/// The router's auxiliary loss of a batch.
struct Aux {
    value: f64,
    /// The gradient by a token's router probabilities, before the coefficient: `E f_e / rows`, `[E]`.
    grad: Tensor,
}

/// The keys and values of every layer, for generation.
pub struct KvCache {
    layers: Vec<LayerKvCache>,
    len: usize,
}

impl KvCache {
    /// The number of tokens that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Pass {
    /// The auxiliary loss, before its coefficient, if it was asked for.
    pub fn aux_loss(&self) -> Option<f64> {
        self.aux.as_ref().map(|aux| aux.value)
    }
}

impl GptOss {
    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its layers.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// Its output head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// All parameters that are trained.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The bytes of its frozen weights as they are stored on the device.
    pub fn weight_bytes(&self) -> u64 {
        let size = |w: &Weight| match w {
            Weight::Frozen(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Weight::Trainable(_) => 0,
        };
        let linear = |l: &Linear| size(&l.weight) + l.bias.as_ref().map_or(0, size);
        let experts = |e: &ExpertLinear| {
            size(&e.bias)
                + match &e.matrix {
                    ExpertWeight::Dense(weight) => size(weight),
                    ExpertWeight::Packed { blocks, scales } => {
                        (blocks.elem_count() + scales.elem_count()) as u64
                    }
                }
        };
        let layer = |layer: &DecoderLayer| {
            let a = &layer.attention;
            let attention = [&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj];
            attention.into_iter().map(linear).sum::<u64>()
                + size(&a.sinks)
                + linear(&layer.moe.router)
                + experts(&layer.moe.gate_up)
                + experts(&layer.moe.down)
                + size(&layer.input_norm.weight)
                + size(&layer.post_norm.weight)
        };
        let embed = match self.offloaded_bytes() {
            Some(_) => 0,
            None => size(&self.embed),
        };
        embed
            + self.layers.iter().map(layer).sum::<u64>()
            + size(&self.head.norm.weight)
            + linear(&self.head.lm_head)
    }

    /// Its compute type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Runs token ids `[T]` u32 through all layers, to `[T, H]` before the final norm.
    ///
    /// # Errors
    /// A sequence is longer than the model allows, or an id is beyond the vocabulary.
    pub fn forward(
        &self,
        ids: &Tensor,
        seqs: &SeqLayout,
        options: &ForwardOptions,
    ) -> Result<(Tensor, Pass)> {
        let batch = self.batch_layout(seqs)?;
        let mut x = self.lookup(ids)?;
        if let Some(neftune) = &options.neftune {
            x = neftune.add(&x, seqs)?;
        }
        let count = self.layers.len();
        let mut kept = Vec::new();
        let mut probabilities = Vec::new();
        let mlps = self
            .config
            .architecture
            .layers
            .iter()
            .map(|layer| &layer.mlp);
        let mixture = mlps.filter_map(MlpSpec::mixture).next();
        let mut chosen = vec![0usize; mixture.map_or(0, |mixture| mixture.experts)];
        for (index, layer) in self.layers.iter().enumerate() {
            let seed = layer_seed(options, index);
            let (y, tape) = layer
                .forward(&x, &batch, seed)
                .with_context(|| format!("layer {index}"))?;
            if options.aux_coef != 0.0 {
                probabilities.push(tape.moe.probability_sum()?);
                for (count, pair) in chosen
                    .iter_mut()
                    .zip(tape.moe.plan.groups.host_offsets()?.windows(2))
                {
                    *count += pair[1] - pair[0];
                }
            }
            if options.training {
                kept.push(if index + options.kept_layers >= count {
                    Kept::Tape(Box::new(tape))
                } else {
                    Kept::Input(x, tape.moe.plan.clone())
                });
            }
            x = y;
        }
        let aux = match probabilities.is_empty() {
            true => None,
            false => Some(self.aux(&probabilities, &chosen, seqs.tokens())?),
        };
        let pass = Pass {
            ids: ids.clone(),
            batch,
            options: options.clone(),
            layers: kept,
            aux,
        };
        Ok((x, pass))
    }

    /// Computes `E sum_e f_e P_e` (`transformers`' `load_balancing_loss_func`), where `f_e` is the share of rows that chose
    /// `e` and `P_e` its mean probability, over all layers and tokens.
    fn aux(&self, probabilities: &[Tensor], chosen: &[usize], tokens: usize) -> Result<Aux> {
        let rows = (tokens * self.layers.len()) as f64;
        let experts = chosen.len() as f64;
        let slope: Vec<f32> = chosen
            .iter()
            .map(|&c| (experts * c as f64 / rows / rows) as f32)
            .collect();
        let grad = Tensor::new(slope.as_slice(), &self.device)?;
        let sum = Tensor::stack(probabilities, 0)?.sum(0)?;
        let value = (sum * &grad)?.sum_all()?.to_scalar::<f32>()?;
        Ok(Aux {
            value: f64::from(value),
            grad,
        })
    }

    /// Runs backward from the gradient by the hidden states `[T, H]`; all parameters accumulate their gradients. The
    /// gradient of the auxiliary loss is multiplied by its coefficient and by `aux_scale`.
    ///
    /// # Errors
    /// The forward pass was not made for training.
    pub fn backward(&self, pass: Pass, dhidden: Tensor, aux_scale: f64) -> Result<()> {
        let Pass {
            ids,
            batch,
            options,
            layers,
            aux,
        } = pass;
        ensure!(
            layers.len() == self.layers.len(),
            "backward of a pass that was not for training"
        );
        let daux = match aux {
            Some(aux) => Some((aux.grad * (options.aux_coef * aux_scale))?),
            None => None,
        };
        let mut dx = dhidden;
        for (index, (layer, kept)) in self.layers.iter().zip(layers).enumerate().rev() {
            let seed = layer_seed(&options, index);
            dx = layer
                .backward(kept, &batch, seed, dx, daux.as_ref())
                .with_context(|| format!("layer {index}, backward"))?;
        }
        self.embed.accumulate(|| {
            let zeros = Tensor::zeros(self.embed.dims(), DType::F32, &self.device)?;
            Ok(zeros.index_add(&ids, &dx.to_dtype(DType::F32)?, 0)?)
        })
    }

    /// An empty cache.
    pub fn cache(&self) -> KvCache {
        KvCache {
            layers: self
                .layers
                .iter()
                .map(|_| LayerKvCache::default())
                .collect(),
            len: 0,
        }
    }

    /// Runs new tokens `[n]`, which follow those in `cache`, to their hidden states `[n, H]`.
    ///
    /// # Errors
    /// There are more tokens than the model allows.
    pub fn decode(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let (start, end) = (cache.len, cache.len + ids.len());
        let rope = self.angles.table(end)?;
        let positions: Vec<u32> = (start as u32..end as u32).collect();
        let positions = Tensor::new(positions.as_slice(), &self.device)?;
        let new = DecodeLayout {
            rope,
            positions,
            rows: Groups::one(ids.len(), &self.device)?,
        };
        let mut x = self.lookup(&Tensor::new(ids, &self.device)?)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.decode(&x, &new, cache)?;
        }
        cache.len = end;
        Ok(x)
    }

    /// The first layer whose output for these tokens is not finite, if there is one; for error messages.
    pub fn first_non_finite_layer(&self, ids: &Tensor, seqs: &SeqLayout) -> Result<Option<usize>> {
        let batch = self.batch_layout(seqs)?;
        let mut x = self.lookup(ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &batch, None)?.0;
            let sum = x.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
            if !sum.is_finite() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn batch_layout(&self, seqs: &SeqLayout) -> Result<BatchLayout> {
        Ok(BatchLayout {
            seqs: seqs.clone(),
            rope: self.angles.table(seqs.max_len)?,
            rows: Groups::one(seqs.tokens(), &self.device)?,
        })
    }
}

/// The seed of a layer's dropout.
fn layer_seed(options: &ForwardOptions, index: usize) -> Option<u64> {
    options.dropout_seed.map(|seed| {
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(16 * index as u64)
    })
}
