//! Low-rank updates by row: each row has an update of its own out of several, or none. Forward only, for answers of several
//! adapters in one batch.
//!
//! The updates of a matrix are stacked: `a` `[G, P, I]` and `b` `[G, O, P]`. `P` is the greatest rank, rounded up to a multiple of 8
//! for kernels; smaller ones are filled with zeros. `b` carries the scale. For a linear layer, or several side by side, `G` are the
//! adapters; for experts each adapter has an update of each expert, and that of a row is `adapter * E + expert`.

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use crate::ops::router::RoutePlan;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

/// The number of a row without an update.
pub const NO_UPDATE: u32 = u32::MAX;

/// The updates of a matrix, or of several side by side, stacked in the compute type.
#[derive(Debug, Clone)]
pub struct RowFactors {
    /// From the input down to the rank, `[G, P, I]`.
    pub a: Tensor,
    /// From the rank up to the output, times the scale, `[G, O, P]`.
    pub b: Tensor,
}

/// Adds to each row of `y` `[N, O]` the update that `index` `[N]` u32 names for it, of the same row of `x` `[N, I]`.
///
/// # Errors
/// Shapes do not fit.
pub fn add_rows(y: Tensor, x: &Tensor, index: &Tensor, factors: &RowFactors) -> Result<Tensor> {
    let ((n, o), (rows, i)) = (y.dims2()?, x.dims2()?);
    let ((count, rank, inputs), b) = (factors.a.dims3()?, factors.b.dims());
    ensure!(
        n == rows && index.dims() == [n] && inputs == i && b == [count, o, rank],
        "updates by row: rows {:?} to {:?}, index {:?}, A {:?} and B {b:?} do not fit",
        x.dims(),
        y.dims(),
        index.dims(),
        factors.a.dims()
    );
    let _span = profile::whole(OpGroup::Lora);
    on_device!(x.device(), add_rows(&y, x, index, factors))
}

/// [`add_rows`] in place. `low` `[N, P]` f32 is room for what is between the factors; nothing is allocated on a card, so that it can be
/// recorded.
///
/// # Errors
/// Shapes do not fit.
pub fn add_rows_into(
    y: &Tensor,
    low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
) -> Result<()> {
    let _span = profile::whole(OpGroup::Lora);
    on_device!(x.device(), add_rows_into(y, low, x, index, factors))
}

/// Writes the updates of rows alone to `y` `[N, O]` f32, 0 for a row without one. Each row of `x` `[T, I]` belongs to `N / T` neighbouring
/// ones; `low` is as in [`add_rows_into`].
///
/// # Errors
/// Shapes do not fit.
pub fn term_of_rows(
    y: &Tensor,
    low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
) -> Result<()> {
    let _span = profile::whole(OpGroup::Lora);
    on_device!(x.device(), term_of_rows(y, low, x, index, factors))
}

/// Writes the update of each pair of a token and a choice to `index` `[T K]`, from the adapter of each token `[T]` and the experts of its
/// choices `ids` `[T, K]`; `order` are the numbers from 0 to T K.
///
/// # Errors
/// The device has failed.
pub fn of_pairs(
    index: &Tensor,
    adapters: &Tensor,
    ids: &Tensor,
    order: &Tensor,
    experts: usize,
) -> Result<()> {
    on_device!(
        adapters.device(),
        of_pairs(index, adapters, ids, order, experts)
    )
}

/// The update of each sorted row of experts `[N]` from the adapter of each token `[T]`.
///
/// # Errors
/// The device has failed.
pub fn of_experts(adapters: &Tensor, plan: &RoutePlan) -> Result<Tensor> {
    on_device!(adapters.device(), of_experts(adapters, plan))
}

impl RowFactors {
    /// The same in another type on another device.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        let moved = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        Ok(Self {
            a: moved(&self.a)?,
            b: moved(&self.b)?,
        })
    }

    /// Stacks updates of the same matrices, each `[G, R, I]` and `[G, O, R]` of its own rank; one that is missing changes nothing.
    /// `None` if all are missing.
    pub fn stacked(updates: &[Option<Self>]) -> Result<Option<Self>> {
        let Some(first) = updates.iter().flatten().next() else {
            return Ok(None);
        };
        let ((groups, _, inputs), outputs) = (first.a.dims3()?, first.b.dim(1)?);
        let ranks = updates.iter().flatten().map(|update| update.a.dim(1));
        let ranks = ranks.collect::<candle_core::Result<Vec<_>>>()?;
        let rank = ranks.into_iter().max().unwrap_or(0).next_multiple_of(8);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for update in updates {
            let Some(update) = update else {
                let (dtype, device) = (first.a.dtype(), first.a.device());
                a.push(Tensor::zeros((groups, rank, inputs), dtype, device)?);
                b.push(Tensor::zeros((groups, outputs, rank), dtype, device)?);
                continue;
            };
            let more = rank - update.a.dim(1)?;
            a.push(update.a.pad_with_zeros(1, 0, more)?);
            b.push(update.b.pad_with_zeros(2, 0, more)?);
        }
        Ok(Some(Self {
            a: Tensor::cat(&a, 0)?.contiguous()?,
            b: Tensor::cat(&b, 0)?.contiguous()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::router::top_k;
    use crate::ops::testing::{close, random, values};

    fn factors() -> RowFactors {
        let update = |seed, rank| RowFactors {
            a: random(seed, &[1, rank, 5]),
            b: random(seed + 1, &[1, 3, rank]),
        };
        let updates = [Some(update(1, 2)), None, Some(update(3, 4))];
        RowFactors::stacked(&updates).unwrap().unwrap()
    }

    #[test]
    fn each_row_has_its_update() {
        let (factors, x, y) = (factors(), random(5, &[6, 5]), random(6, &[6, 3]));
        let index = [2, NO_UPDATE, 0, 1, 0, 2];
        let (a, b) = (values(&factors.a), values(&factors.b));
        let (xs, mut expected) = (values(&x), values(&y));
        for (n, &g) in index.iter().enumerate().filter(|(_, g)| **g != NO_UPDATE) {
            let g = g as usize;
            for r in 0..8 {
                let low: f64 = (0..5).map(|i| xs[n * 5 + i] * a[(g * 8 + r) * 5 + i]).sum();
                for o in 0..3 {
                    expected[n * 3 + o] += low * b[(g * 3 + o) * 8 + r];
                }
            }
        }
        let index = Tensor::new(&index, &Device::Cpu).unwrap();
        let found = add_rows(y.clone(), &x, &index, &factors).unwrap();
        close(&found, &expected, 1e-6);
        let narrow = random(7, &[6, 4]);
        assert!(add_rows(y, &narrow, &index, &factors).is_err());
        assert!(RowFactors::stacked(&[None, None]).unwrap().is_none());
    }

    #[test]
    fn rows_of_experts_have_the_update_of_adapter_and_expert() {
        let logits = random(1, &[4, 3]);
        let ids = top_k(&logits, 2).unwrap();
        let plan = RoutePlan::new(&ids, 3).unwrap();
        let adapters = [1, NO_UPDATE, 0, 1];
        let on_device = Tensor::new(&adapters, &Device::Cpu).unwrap();
        let found = of_experts(&on_device, &plan)
            .unwrap()
            .to_vec1::<u32>()
            .unwrap();
        let order = plan.order.to_vec1::<u32>().unwrap();
        for (expert, rows) in plan.groups.filled().unwrap() {
            for row in rows {
                let expected = match adapters[order[row] as usize / 2] {
                    NO_UPDATE => NO_UPDATE,
                    adapter => adapter * 3 + expert as u32,
                };
                assert_eq!(found[row], expected);
            }
        }
    }
}
