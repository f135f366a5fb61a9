//! Causal attention with sinks and a sliding window on packed sequences, as `transformers`' eager
//! attention of gpt-oss: scores `q k / sqrt(D)`, a softmax over the visible keys and the head's
//! sink together, the sink's column dropped. Query head `h` reads key head `h / (Q / KV)`.
//!
//! The backward pass is the usual one of flash attention (Dao, <https://arxiv.org/abs/2307.08691>)
//! because `lse` contains the sink: `p = exp(score - lse)` are then the dropped-column
//! probabilities, and `ds = p * (dp - sum(dout * out))` stays exact.

mod cached;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod tests;

use super::{Heads, SeqLayout};
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Takes `qkv` `[T, (Q + 2 KV) D]` and `sinks` `[Q]` to the output `[T, Q D]` and the logarithm of the sum of
/// exponentials, the sink included, `[Q, T]` f32. With a `window`, a query sees that many keys, its own included.
pub fn forward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
) -> Result<(Tensor, Tensor)> {
    check(qkv, sinks, seqs, heads)?;
    let _span = profile::span(OpGroup::Attention);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = qkv.device() {
        return cuda::forward(qkv, sinks, seqs, heads, window, cuda);
    }
    cpu::forward(qkv, sinks, seqs, heads, window)
}

/// The results of [`forward`] that [`backward`] needs.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The output.
    pub out: Tensor,
    /// The logarithm of the sum of exponentials.
    pub lse: Tensor,
}

/// Returns the gradients by `qkv` and by the sinks (`[Q]` f32) from `dout` `[T, Q D]`.
pub fn backward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
    saved: &Saved,
    dout: &Tensor,
) -> Result<(Tensor, Tensor)> {
    check(qkv, sinks, seqs, heads)?;
    let _span = profile::span(OpGroup::Attention);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = qkv.device() {
        return cuda::backward(qkv, sinks, seqs, heads, window, saved, dout, cuda);
    }
    cpu::backward(qkv, sinks, seqs, heads, window, saved, dout)
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

/// Attends over a cache of keys and values, for generation: forward only, one sequence. Queries `[Tq, Q D]`, the last of which is at the end of the cache, to keys and values `[Tk, KV D]` each;
/// returns `[Tq, Q D]`.
///
/// # Errors
/// Shapes do not fit, or there are more queries than keys.
pub fn cached(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    sinks: &Tensor,
    heads: Heads,
    window: Option<usize>,
) -> Result<Tensor> {
    let ((tq, width), (tk, kv_width)) = (q.dims2()?, keys.dims2()?);
    ensure!(
        width == heads.q * heads.dim
            && kv_width == heads.kv * heads.dim
            && values.dims() == keys.dims()
            && tq <= tk,
        "attention: queries {:?} and a cache of {:?} do not fit {heads:?}",
        q.dims(),
        keys.dims()
    );
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = q.device() {
        return cuda::cached(q, keys, values, sinks, heads, window, cuda);
    }
    cached::cached(q, keys, values, sinks, heads, window)
}
