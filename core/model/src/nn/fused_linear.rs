//! Frozen linear layers that read the same input, computed as one product with their low-rank updates in the same sum.
//!
//! q, k and v read the same rows: one product over the three matrices reads these rows once, and the gradient by the
//! rows is one product too. The layers keep their names; their matrices become views of the fused one.

use super::linear::Linear;
use super::param::Weight;
use super::sharding::Sharded;
use crate::ops::Groups;
use crate::ops::grouped::{self, Addends, LowRankTerm};
use crate::ops::lora::{Factors, Pack, PackTape};
use anyhow::Result;
use candle_core::Tensor;

/// The matrices `[O, I]` of several layers, one below the other, with their biases `[O]`.
#[derive(Debug)]
pub struct FusedLinear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// What [`FusedLinear::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    lora: Option<PackTape>,
}

/// The tensor of a weight that is frozen.
fn frozen(weight: &Weight) -> Option<&Tensor> {
    match weight {
        Weight::Frozen(tensor) => Some(tensor),
        Weight::Sharded(_) | Weight::Trainable(_) => None,
    }
}

/// The frozen matrices of layers as one; `None` if one of them is trained. The layers' own become views of it.
fn joined(layers: &mut [Linear]) -> Result<Option<Weight>> {
    let shared = layers.iter().map(|layer| match &layer.weight {
        Weight::Sharded(sharded) => Some(sharded),
        Weight::Frozen(_) | Weight::Trainable(_) => None,
    });
    if let Some(shared) = shared.collect::<Option<Vec<_>>>() {
        return Sharded::joined(&shared).map(|all| Some(Weight::Sharded(all)));
    }
    let whole = layers.iter().map(|layer| frozen(&layer.weight).cloned());
    let Some(whole) = whole.collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let weight = Tensor::cat(&whole, 0)?;
    let mut at = 0;
    for layer in layers {
        let (_, outputs) = layer.dims();
        layer.weight = Weight::Frozen(weight.narrow(0, at, outputs)?);
        at += outputs;
    }
    Ok(Some(Weight::Frozen(weight)))
}

impl FusedLinear {
    /// Fuses layers; `None` if one of their weights is trained.
    pub fn new(layers: &mut [Linear]) -> Result<Option<Self>> {
        let biases: Option<Vec<_>> = layers
            .iter()
            .map(|l| l.bias.as_ref().and_then(frozen).cloned())
            .collect();
        let bare = layers.iter().all(|l| l.bias.is_none());
        if biases.is_none() && !bare {
            return Ok(None);
        }
        let Some(weight) = joined(layers)? else {
            return Ok(None);
        };
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Some(Self { weight, bias }))
    }

    /// The matrix and the bias.
    pub fn parts(&self) -> (&Weight, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// Whether layers can be computed as one product: with one scale, without DoRA and tuners, and without dropout in this pass.
    pub fn can_fuse(layers: &[Linear], dropout: bool) -> bool {
        let mut scales = layers
            .iter()
            .filter_map(|layer| Some(layer.lora.as_ref()?.scale));
        let first = scales.next();
        if !scales.all(|scale| Some(scale) == first) {
            return false;
        }
        let plain = |layer: &Linear| match &layer.lora {
            Some(lora) => lora.magnitude.is_none() && !(dropout && lora.dropout > 0.0),
            None => true,
        };
        layers
            .iter()
            .all(|layer| layer.tuned.is_none() && plain(layer))
    }

    /// Takes `x` `[T, I]` to `[T, O]`, the outputs of the layers side by side.
    pub fn forward(&self, layers: &[Linear], x: &Tensor, rows: &Groups) -> Result<(Tensor, Tape)> {
        let tape = self.tape(layers, x, rows)?;
        let low_rank = tape.lora.as_ref();
        let low_rank = low_rank.map(|PackTape { pack, xa }| pack.up(xa, true));
        let y = self.product(x, rows, low_rank.transpose()?)?;
        Ok((y, tape))
    }

    /// The same without low-rank updates.
    pub fn base(&self, x: &Tensor, rows: &Groups) -> Result<Tensor> {
        self.product(x, rows, None)
    }

    fn product(&self, x: &Tensor, rows: &Groups, low_rank: Option<LowRankTerm>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| b.unsqueeze(0)).transpose()?;
        let w = self.weight.get(x.dtype())?;
        let w = w.unsqueeze(0)?.transpose(1, 2)?;
        grouped::matmul(x, &w, rows, &Addends { bias, low_rank })
    }

    /// Makes the tape of [`forward`](Self::forward) alone.
    pub fn tape(&self, layers: &[Linear], x: &Tensor, rows: &Groups) -> Result<Tape> {
        let lora = match pack(layers, x)? {
            Some(pack) => Some(pack.into_tape(x, rows)?),
            None => None,
        };
        let x = x.clone();
        Ok(Tape { x, lora })
    }

    /// Returns the gradient by `x` from `dy` `[T, O]`; the low-rank updates accumulate theirs.
    pub fn backward(
        &self,
        layers: &[Linear],
        tape: &Tape,
        dy: &Tensor,
        rows: &Groups,
    ) -> Result<Tensor> {
        let mut addends = Addends::default();
        if let Some(PackTape { pack, xa }) = &tape.lora {
            let dxa = pack.down_backward(dy, rows)?;
            let loras = || layers.iter().map(|layer| layer.lora.as_ref());
            if loras().flatten().any(|lora| !lora.a.is_frozen()) {
                let all = pack.gradients_by_a(&tape.x, &dxa, rows)?;
                for (lora, gradient) in loras().zip(all) {
                    if let (Some(lora), Some(gradient)) = (lora, gradient) {
                        lora.a.accumulate(gradient)?;
                    }
                }
            }
            if loras().flatten().any(|lora| !lora.b.is_frozen()) {
                let all = pack.gradients_by_b(xa, dy, rows)?;
                for (lora, gradient) in loras().zip(all) {
                    if let (Some(lora), Some(gradient)) = (lora, gradient) {
                        lora.b.accumulate(gradient)?;
                    }
                }
            }
            addends.low_rank = Some(pack.input_grad(dxa));
        }
        let w = self.weight.get(dy.dtype())?;
        grouped::matmul(dy, &w.unsqueeze(0)?, rows, &addends)
    }
}

/// Packs the low-rank updates of the layers in the type of `like`.
fn pack(layers: &[Linear], like: &Tensor) -> Result<Option<Pack>> {
    let Some(scale) = layers.iter().find_map(|l| Some(l.lora.as_ref()?.scale)) else {
        return Ok(None);
    };
    let modules: Vec<_> = layers
        .iter()
        .map(|layer| {
            let factors = layer.lora.as_ref().map(|lora| Factors {
                a: lora.a.value(),
                b: lora.b.value(),
            });
            (layer.dims().1, factors)
        })
        .collect();
    Pack::new(&modules, 1, scale, like.dtype()).map(Some)
}
