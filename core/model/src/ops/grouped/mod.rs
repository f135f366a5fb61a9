//! Matrix products of rows in groups, where each group has its own matrix: the rows of each expert, or all rows in one
//! group.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod hopper;

use super::groups::Groups;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use std::ops::Range;

/// What is added to a product in the same sum.
#[derive(Debug, Clone, Default)]
pub struct Addends {
    /// A bias for the rows of each group, `[G, O]`.
    pub bias: Option<Tensor>,
    /// A low-rank update.
    pub low_rank: Option<LowRankTerm>,
}

/// A second product that is added to the first: `x` `[N, P]` times `w` `[G, P, O]`.
#[derive(Debug, Clone)]
pub struct LowRankTerm {
    /// The rows, as narrow as the rank.
    pub x: Tensor,
    /// The matrices, transposed views where those of the first product are.
    pub w: Tensor,
}

impl Addends {
    /// Those of a range of groups, which have these rows.
    pub fn of_groups(&self, groups: &Range<usize>, rows: &Range<usize>) -> Result<Self> {
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| bias.narrow(0, groups.start, groups.len()));
        let low_rank = self.low_rank.as_ref().map(|low| {
            Ok::<_, candle_core::Error>(LowRankTerm {
                x: low.x.narrow(0, rows.start, rows.len())?,
                w: low.w.narrow(0, groups.start, groups.len())?,
            })
        });
        Ok(Self {
            bias: bias.transpose()?,
            low_rank: low_rank.transpose()?,
        })
    }
}

/// Multiplies the rows of group `g` in `x` `[N, I]` by `w[g]`, with `w` `[G, I, O]` (also as the transposed view of
/// `[G, O, I]`), and adds the addends; returns `[N, O]`. Groups without rows cost nothing.
pub fn matmul(x: &Tensor, w: &Tensor, groups: &Groups, addends: &Addends) -> Result<Tensor> {
    let ((n, i), (count, wi, _)) = (x.dims2()?, w.dims3()?);
    ensure!(
        i == wi && groups.count() == count && groups.rows() == n,
        "grouped product: rows {:?}, matrices {:?} and {} rows in {} groups do not fit",
        x.dims(),
        w.dims(),
        groups.rows(),
        groups.count()
    );
    let _span = profile::span(work(groups));
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device()
        && hopper::fits(x, w, groups, addends, cuda)?
    {
        return hopper::product(x, w, groups, addends, cuda);
    }
    add(separate(x, w, groups)?, groups, addends)
}

/// Adds the addends to a product that was computed without them.
pub fn add(mut y: Tensor, groups: &Groups, addends: &Addends) -> Result<Tensor> {
    if let Some(low) = &addends.low_rank {
        y = (y + separate(&low.x, &low.w, groups)?)?;
    }
    match &addends.bias {
        Some(bias) => add_bias(y, bias, groups),
        None => Ok(y),
    }
}

/// The group of operations that the profile counts these products for: products of one group are not those of experts.
fn work(groups: &Groups) -> OpGroup {
    match groups.count() {
        1 => OpGroup::Projections,
        _ => OpGroup::Experts,
    }
}

/// Computes one product for each group.
fn separate(x: &Tensor, w: &Tensor, groups: &Groups) -> Result<Tensor> {
    on_device!(x.device(), separate(x, w, groups))
}

/// Returns the gradient by the matrices, `[G, I, O]` f32: each group's `x^T dy`.
pub fn weight_grad(x: &Tensor, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
    let _span = profile::span(work(groups));
    on_device!(x.device(), weight_grad(x, dy, groups))
}

/// Adds each group's bias `[G, O]` to its rows of `y` `[N, O]`, which nobody else may hold.
pub fn add_bias(y: Tensor, bias: &Tensor, groups: &Groups) -> Result<Tensor> {
    let _span = profile::span(work(groups));
    on_device!(&y.device().clone(), add_bias(y, bias, groups))
}

/// Returns the gradient by the biases, `[G, O]` f32: the sum of each group's rows.
pub fn bias_grad(dy: &Tensor, groups: &Groups) -> Result<Tensor> {
    let _span = profile::span(work(groups));
    on_device!(dy.device(), bias_grad(dy, groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};

    fn groups() -> Groups {
        Groups::new(&[0, 3, 3, 4, 9], &candle_core::Device::Cpu).unwrap()
    }

    #[test]
    fn each_expert_has_its_own_matrix() {
        let (x, w, b) = (
            random(1, &[9, 5]),
            random(2, &[4, 5, 6]),
            random(3, &[4, 6]),
        );
        let (xs, ws, bs) = (values(&x), values(&w), values(&b));
        let (lx, lw) = (random(4, &[9, 2]), random(5, &[4, 2, 6]));
        let (lxs, lws) = (values(&lx), values(&lw));
        let group = [0, 0, 0, 2, 3, 3, 3, 3, 3];
        let mut expected = Vec::new();
        for (n, g) in group.into_iter().enumerate() {
            for o in 0..6 {
                let wide = (0..5).map(|i| xs[n * 5 + i] * ws[(g * 5 + i) * 6 + o]);
                let low = (0..2).map(|r| lxs[n * 2 + r] * lws[(g * 2 + r) * 6 + o]);
                expected.push(wide.chain(low).sum::<f64>() + bs[g * 6 + o]);
            }
        }
        let turned = |w: &Tensor| {
            let t = w.transpose(1, 2).unwrap().contiguous().unwrap();
            t.transpose(1, 2).unwrap()
        };
        for (w, lw) in [(w.clone(), lw.clone()), (turned(&w), turned(&lw))] {
            let low = LowRankTerm {
                x: lx.clone(),
                w: lw,
            };
            let addends = Addends {
                bias: Some(b.clone()),
                low_rank: Some(low),
            };
            close(
                &matmul(&x, &w, &groups(), &addends).unwrap(),
                &expected,
                1e-6,
            );
        }
    }

    #[test]
    fn gradients() {
        let (x, w, dy) = (
            random(1, &[9, 5]),
            random(2, &[4, 5, 6]),
            random(3, &[9, 6]),
        );
        let y = |x: &Tensor, w: &Tensor| {
            dot(&matmul(x, w, &groups(), &Addends::default()).unwrap(), &dy)
        };
        let dx = matmul(
            &dy,
            &w.transpose(1, 2).unwrap(),
            &groups(),
            &Addends::default(),
        )
        .unwrap();
        finite_differences(&x, &dx, |x| y(x, &w));
        finite_differences(&w, &weight_grad(&x, &dy, &groups()).unwrap(), |w| y(&x, w));
        let b = random(4, &[4, 6]);
        finite_differences(&b, &bias_grad(&dy, &groups()).unwrap(), |b| {
            dot(
                &add_bias(
                    x.zeros_like().unwrap().matmul(&w.get(0).unwrap()).unwrap(),
                    b,
                    &groups(),
                )
                .unwrap(),
                &dy,
            )
        });
    }
}
