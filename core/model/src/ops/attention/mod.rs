//! Causal attention on packed sequences, with or without sinks and a sliding window: scores `q k / sqrt(D)`, a softmax over
//! the visible keys and the head's sink together, the sink's column dropped. A head without a sink is one whose sink is minus
//! infinity. Query head `h` reads key head `h / (Q / KV)`.
//!
//! The backward pass is the usual one of flash attention (Dao, <https://arxiv.org/abs/2307.08691>)
//! because `lse` contains the sink: `p = exp(score - lse)` are then the dropped-column
//! probabilities, and `ds = p * (dp - sum(dout * out))` stays exact.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
#[cfg(test)]
mod tests;

use super::{Heads, SeqLayout};
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

/// Takes `qkv` `[T, (Q + 2 KV) D]` and `sinks` `[Q]`, if there are any, to the output `[T, Q D]` and the logarithm of the sum
/// of exponentials, the sink included, `[Q, T]` f32. With a `window`, a query sees that many keys, its own included.
pub fn forward(
    qkv: &Tensor,
    sinks: Option<&Tensor>,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
) -> Result<(Tensor, Tensor)> {
    let sinks = &or_minus_infinity(sinks, heads, qkv)?;
    check(qkv, sinks, seqs, heads)?;
    let _span = profile::span(OpGroup::Attention);
    on_device!(qkv.device(), forward(qkv, sinks, seqs, heads, window))
}

/// Checks that a device computes attention of these heads.
///
/// # Errors
/// The device is a card, for which there is no kernel of this size of heads.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn check_device(heads: Heads, device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        cuda::every_card(heads)?;
    }
    Ok(())
}

/// The results of [`forward`] that [`backward`] needs.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The output.
    pub out: Tensor,
    /// The logarithm of the sum of exponentials.
    pub lse: Tensor,
}

/// Returns the gradients by `qkv` and by the sinks (`[Q]` f32), if there are any, from `dout` `[T, Q D]`.
pub fn backward(
    qkv: &Tensor,
    sinks: Option<&Tensor>,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
    saved: &Saved,
    dout: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    let given = sinks.is_some();
    let sinks = &or_minus_infinity(sinks, heads, qkv)?;
    check(qkv, sinks, seqs, heads)?;
    let _span = profile::span(OpGroup::Attention);
    let (dqkv, dsinks) = on_device!(
        qkv.device(),
        backward(qkv, sinks, seqs, heads, window, saved, dout)
    )?;
    Ok((dqkv, given.then_some(dsinks)))
}

/// The sinks, or minus infinity for each head, in the type of `like`.
pub(super) fn or_minus_infinity(
    sinks: Option<&Tensor>,
    heads: Heads,
    like: &Tensor,
) -> Result<Tensor> {
    match sinks {
        Some(sinks) => Ok(sinks.clone()),
        None => {
            let none = Tensor::full(f32::NEG_INFINITY, heads.q, like.device())?;
            Ok(none.to_dtype(like.dtype())?)
        }
    }
}

fn check(qkv: &Tensor, sinks: &Tensor, seqs: &SeqLayout, heads: Heads) -> Result<()> {
    let (t, width) = qkv.dims2()?;
    ensure!(
        width == heads.width()
            && t == seqs.tokens()
            && sinks.dims() == [heads.q]
            && heads.kv > 0
            && heads.q.is_multiple_of(heads.kv),
        "attention: qkv {:?} and sinks {:?} do not fit {heads:?} and {} tokens",
        qkv.dims(),
        sinks.dims(),
        seqs.tokens()
    );
    Ok(())
}
