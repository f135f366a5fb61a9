//! Rotary position embedding on the query and key parts of a fused `[q | k | v]` row (Su et al.,
//! <https://arxiv.org/abs/2104.09864>), halves rotated as in `transformers`: with `x1`, `x2` the
//! two halves of a head, `out = [x1 cos - x2 sin, x2 cos + x1 sin]`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// The numbers of heads and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The number of query heads.
    pub q: usize,
    /// The number of key and value heads.
    pub kv: usize,
    /// The size of a head.
    pub dim: usize,
}

impl Heads {
    /// The width of a `[q | k | v]` row.
    pub fn width(&self) -> usize {
        (self.q + 2 * self.kv) * self.dim
    }
}

/// Cosines and sines by position, with YaRN's attention factor in both: `[positions, D / 2]` f32.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

/// Rotates the q and k parts of `qkv` `[T, (Q + 2 KV) D]` by `positions` `[T]`; v is copied.
/// With `transpose` it applies the transposed map, which gives the gradient.
///
/// # Errors
/// A position is beyond the table.
pub fn apply(
    qkv: &Tensor,
    table: &RopeTable,
    positions: &Tensor,
    heads: Heads,
    transpose: bool,
) -> Result<Tensor> {
    let (t, width) = qkv.dims2()?;
    let (_, half) = table.cos.dims2()?;
    ensure!(
        width == heads.width() && 2 * half == heads.dim && positions.dims() == [t],
        "rope: rows of {width} and angles of {half} do not fit {heads:?}"
    );
    let _span = profile::span(OpGroup::Rope);
    on_device!(qkv.device(), apply(qkv, table, positions, heads, transpose))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};
    use candle_core::Device;

    const HEADS: Heads = Heads {
        q: 2,
        kv: 1,
        dim: 6,
    };

    fn setting() -> (Tensor, RopeTable, Tensor) {
        let table = RopeTable {
            cos: random(1, &[9, 3]),
            sin: random(2, &[9, 3]),
        };
        let positions = Tensor::new(&[0u32, 1, 8, 0], &Device::Cpu).unwrap();
        (random(3, &[4, HEADS.width()]), table, positions)
    }

    #[test]
    fn rotates_queries_and_keys_and_leaves_values() {
        let (qkv, table, positions) = setting();
        let (x, cos, sin) = (values(&qkv), values(&table.cos), values(&table.sin));
        let mut expected = x.clone();
        for (t, p) in [0usize, 1, 8, 0].into_iter().enumerate() {
            for head in 0..3 {
                for i in 0..3 {
                    let at = t * 24 + head * 6 + i;
                    let (c, s) = (cos[p * 3 + i], sin[p * 3 + i]);
                    expected[at] = x[at] * c - x[at + 3] * s;
                    expected[at + 3] = x[at + 3] * c + x[at] * s;
                }
            }
        }
        close(
            &apply(&qkv, &table, &positions, HEADS, false).unwrap(),
            &expected,
            1e-6,
        );
    }

    #[test]
    fn transpose_is_the_gradient() {
        let (qkv, table, positions) = setting();
        let dy = random(4, &[4, HEADS.width()]);
        let dx = apply(&dy, &table, &positions, HEADS, true).unwrap();
        finite_differences(&qkv, &dx, |x| {
            dot(&apply(x, &table, &positions, HEADS, false).unwrap(), &dy)
        });
    }

    #[test]
    fn a_position_beyond_the_table_is_an_error() {
        let (qkv, table, _) = setting();
        let positions = Tensor::new(&[0u32, 1, 9, 0], &Device::Cpu).unwrap();
        assert!(apply(&qkv, &table, &positions, HEADS, false).is_err());
    }
}
