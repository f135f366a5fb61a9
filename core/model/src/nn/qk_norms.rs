//! Norms of queries and keys, each head by itself, between their projection and the rotation (Dehghani et al.,
//! <https://arxiv.org/abs/2302.05442>). They are composed of the norm of rows: a head of a token is a row.

use super::norm::Norm;
use crate::ops::Heads;
use anyhow::Result;
use candle_core::Tensor;

/// A norm for all query heads, and one for all key heads.
#[derive(Debug)]
pub struct QkNorms {
    /// Of queries; its weight is `[D]`.
    pub q_norm: Norm,
    /// Of keys; its weight is `[D]`.
    pub k_norm: Norm,
}

impl QkNorms {
    /// Norms the queries and keys of `qkv` `[T, (Q + 2 KV) D]`. The backward pass needs nothing but `qkv`.
    pub fn forward(&self, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        let [q, k, v] = parts(qkv, heads)?;
        let norm = |norm: &Norm, part: &Tensor| -> Result<Tensor> {
            let heads = rows(part, heads)?;
            Ok(norm.forward(&heads)?.reshape(part.shape())?)
        };
        let (q, k) = (norm(&self.q_norm, &q)?, norm(&self.k_norm, &k)?);
        Ok(Tensor::cat(&[q, k, v], 1)?)
    }

    /// Returns the gradient by `qkv` from that by the normed rows, `dqkv`.
    pub fn backward(&self, qkv: &Tensor, heads: Heads, dqkv: &Tensor) -> Result<Tensor> {
        let ([q, k, _], [dq, dk, dv]) = (parts(qkv, heads)?, parts(dqkv, heads)?);
        let norm = |norm: &Norm, part: &Tensor, d: &Tensor| -> Result<Tensor> {
            let dx = norm.backward(&rows(part, heads)?, &rows(d, heads)?, None)?;
            Ok(dx.reshape(part.shape())?)
        };
        let dq = norm(&self.q_norm, &q, &dq)?;
        let dk = norm(&self.k_norm, &k, &dk)?;
        Ok(Tensor::cat(&[dq, dk, dv], 1)?)
    }
}

/// Queries, keys and values, each in memory of its own.
fn parts(qkv: &Tensor, heads: Heads) -> Result<[Tensor; 3]> {
    let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
    let part = |start, len| qkv.narrow(1, start, len).and_then(|part| part.contiguous());
    Ok([part(0, q)?, part(q, kv)?, part(q + kv, kv)?])
}

/// One row for each head of each token.
fn rows(part: &Tensor, heads: Heads) -> Result<Tensor> {
    let (tokens, width) = part.dims2()?;
    Ok(part.reshape((tokens * width / heads.dim, heads.dim))?)
}
