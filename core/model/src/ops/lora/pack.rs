//! Low-rank updates of one or several modules that share their input, packed for products.
//!
//! The outputs of the modules (q, k and v of an attention) are side by side, and so are their ranks: one narrow product
//! gives `x A^T` of all of them, and one [`grouped::LowRankTerm`] of the wide product applies all. Rows may be in groups,
//! each with its own factors (experts).

#[cfg(feature = "cuda")]
use super::cuda;
use super::{RowFactors, cpu};
use crate::ops::grouped::{self, Addends, LowRankTerm};
use crate::ops::groups::Groups;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::{DType, Tensor};

/// A and B of one module in PEFT's layouts, f32: `a` `[G R, I]`, the rows of a group together; `b` `[O, R G]`, the
/// columns of a rank together (`peft.tuners.lora.ParamWrapper`; with one group, `[R, I]` and `[O, R]`).
#[derive(Debug, Clone)]
pub struct Factors {
    /// From the input down to the rank.
    pub a: Tensor,
    /// From the rank up to the output.
    pub b: Tensor,
}

/// What a packed update keeps for the wide product and for the backward pass.
#[derive(Debug)]
pub struct PackTape {
    /// The factors.
    pub pack: Pack,
    /// `x A^T`, `[N, P]`.
    pub xa: Tensor,
}

/// The part of a pack that belongs to a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRange {
    /// Its rank; 0 if it has no update.
    pub rank: usize,
    /// Its first rank among those of all modules.
    pub first_rank: usize,
    /// Rows of A that it fills: as many as its rank, and for the last module also those that pad the ranks.
    pub a_rows: usize,
    /// Its first output among those of all modules.
    pub first_output: usize,
    /// Number of its outputs.
    pub outputs: usize,
}

/// The number of elements from one group, column and rank of a gradient to the next.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    /// From one group to the next.
    pub group: usize,
    /// From one column to the next: an input of A, an output of B.
    pub column: usize,
    /// From one rank to the next.
    pub rank: usize,
}

/// Packed factors in the compute type; `P` is the sum of the ranks, a multiple of 8 on CUDA.
#[derive(Debug)]
pub struct Pack {
    /// `[G, P, I]`.
    a: Tensor,
    /// `scale * B`, `[G, O, P]`.
    b: Tensor,
    /// `scale * B`, `[G, P, O]`.
    b_transposed: Tensor,
    ranges: Vec<PackedRange>,
    scale: f64,
}

impl Pack {
    /// Packs modules, each given by its number of outputs and its factors; those without factors have no update.
    ///
    /// # Errors
    /// No module has factors.
    pub fn new(
        modules: &[(usize, Option<Factors>)],
        groups: usize,
        scale: f64,
        dtype: DType,
    ) -> Result<Self> {
        let _span = profile::whole(OpGroup::Lora);
        let rank = |factors: &Option<Factors>| -> Result<usize> {
            Ok(match factors {
                Some(factors) => factors.a.dim(0)? / groups,
                None => 0,
            })
        };
        let (mut ranges, mut ranks, mut outputs) = (Vec::new(), 0, 0);
        for (width, factors) in modules {
            let (rank, width) = (rank(factors)?, *width);
            ranges.push(PackedRange {
                rank,
                first_rank: ranks,
                a_rows: rank,
                first_output: outputs,
                outputs: width,
            });
            (ranks, outputs) = (ranks + rank, outputs + width);
        }
        let found = modules.iter().find_map(|(_, factors)| factors.as_ref());
        let Some(Factors { a, .. }) = found else {
            anyhow::bail!("a pack of updates without any");
        };
        let [a, b, b_transposed] = pack(a, modules, &mut ranges, groups, scale, dtype)?;
        Ok(Self {
            a,
            b,
            b_transposed,
            ranges,
            scale,
        })
    }

    /// The factors as the update of one adapter among those of rows.
    pub fn into_rows(self) -> RowFactors {
        RowFactors {
            a: self.a,
            b: self.b,
        }
    }

    /// Computes `x A^T` of rows `[N, I]` and keeps it with the pack.
    pub fn into_tape(self, x: &Tensor, groups: &Groups) -> Result<PackTape> {
        let xa = self.down(x, groups)?;
        Ok(PackTape { pack: self, xa })
    }

    /// Computes `x A^T`, `[N, P]`, of rows `[N, I]`.
    pub fn down(&self, x: &Tensor, groups: &Groups) -> Result<Tensor> {
        let _span = profile::whole(OpGroup::Lora);
        down(x, &self.a, groups)
    }

    /// Makes the term that is added to the product of the modules' matrices, from [`down`](Self::down)'s result. `transposed`: the matrices
    /// are transposed views.
    pub fn up(&self, xa: &Tensor, transposed: bool) -> Result<LowRankTerm> {
        Ok(LowRankTerm {
            x: xa.clone(),
            w: match transposed {
                true => self.b.transpose(1, 2)?,
                false => self.b_transposed.clone(),
            },
        })
    }

    /// Returns the gradient by `x A^T`, `[N, P]`, from `dy` `[N, O]`.
    pub fn down_backward(&self, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
        let _span = profile::whole(OpGroup::Lora);
        down(dy, &self.b_transposed, groups)
    }

    /// Returns the gradients by the factors of each module, in PEFT's layouts: `x^T dxa` and `dy^T xa`.
    pub fn gradients(
        &self,
        x: &Tensor,
        dxa: &Tensor,
        xa: &Tensor,
        dy: &Tensor,
        groups: &Groups,
    ) -> Result<Vec<Option<Factors>>> {
        let a = self.gradients_by_a(x, dxa, groups)?;
        let b = self.gradients_by_b(xa, dy, groups)?;
        let both = a.into_iter().zip(b);
        Ok(both.map(|(a, b)| Some(Factors { a: a?, b: b? })).collect())
    }

    /// The gradients by A alone.
    pub fn gradients_by_a(
        &self,
        x: &Tensor,
        dxa: &Tensor,
        groups: &Groups,
    ) -> Result<Vec<Option<Tensor>>> {
        let _span = profile::whole(OpGroup::Lora);
        let da = self.by_a(x, dxa, groups)?;
        let of = |range: &PackedRange| -> Result<Option<Tensor>> {
            if range.rank == 0 {
                return Ok(None);
            }
            let a = da.narrow(1, range.first_rank, range.rank)?.contiguous()?;
            let rows = groups.count() * range.rank;
            Ok(Some(a.reshape((rows, x.dim(1)?))?))
        };
        self.ranges.iter().map(of).collect()
    }

    /// The gradients by B alone.
    pub fn gradients_by_b(
        &self,
        xa: &Tensor,
        dy: &Tensor,
        groups: &Groups,
    ) -> Result<Vec<Option<Tensor>>> {
        let _span = profile::whole(OpGroup::Lora);
        let db = self.by_b(xa, dy, groups)?;
        let count = groups.count();
        let mut gradients = Vec::new();
        for range in &self.ranges {
            let PackedRange {
                rank,
                first_rank,
                first_output,
                outputs,
                ..
            } = *range;
            gradients.push(match rank {
                0 => None,
                _ => {
                    let b = db
                        .narrow(0, first_output, outputs)?
                        .narrow(1, first_rank, rank)?;
                    Some(b.contiguous()?.reshape((outputs, rank * count))?)
                }
            });
        }
        Ok(gradients)
    }

    /// Makes the term that is added to the gradient by the input, from the gradient by `x A^T`.
    pub fn input_grad(&self, dxa: Tensor) -> LowRankTerm {
        LowRankTerm {
            x: dxa,
            w: self.a.clone(),
        }
    }

    /// The sum of all ranks.
    fn rank(&self) -> usize {
        self.ranges.iter().map(|range| range.rank).sum()
    }

    /// The gradient by A of all modules, `[G, R, I]` f32.
    fn by_a(&self, x: &Tensor, dxa: &Tensor, groups: &Groups) -> Result<Tensor> {
        let (rank, inputs, count) = (self.rank(), x.dim(1)?, groups.count());
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = x.device()
            && cuda::fits(dxa.dim(1)?, inputs)
        {
            let strides = Strides {
                group: rank * inputs,
                column: 1,
                rank: inputs,
            };
            let sum = cuda::gradient(x, dxa, groups, rank, strides, 1.0, cuda)?;
            return Ok(sum.reshape((count, rank, inputs))?);
        }
        let all = grouped::weight_grad(dxa, x, groups)?;
        Ok(all.narrow(1, 0, rank)?.reshape((count, rank, inputs))?)
    }

    /// The gradient by B of all modules, `[O, R, G]` f32.
    fn by_b(&self, xa: &Tensor, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
        let rank = self.rank();
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = dy.device()
            && cuda::fits(xa.dim(1)?, dy.dim(1)?)
        {
            let (outputs, count) = (dy.dim(1)?, groups.count());
            let strides = Strides {
                group: 1,
                column: rank * count,
                rank: count,
            };
            let scale = self.scale;
            let sum = cuda::gradient(dy, xa, groups, rank, strides, scale, cuda)?;
            return Ok(sum.reshape((outputs, rank, count))?);
        }
        let all = (grouped::weight_grad(xa, dy, groups)? * self.scale)?;
        Ok(all.narrow(1, 0, rank)?.permute((2, 1, 0))?)
    }
}

/// Packs the factors of modules, `a` being one of them: A `[G, P, I]`, B `[G, O, P]` and its transpose.
fn pack(
    a: &Tensor,
    modules: &[(usize, Option<Factors>)],
    ranges: &mut [PackedRange],
    groups: usize,
    scale: f64,
    dtype: DType,
) -> Result<[Tensor; 3]> {
    let inputs = a.dim(1)?;
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = a.device()
        && dtype == DType::BF16
        && cuda::packs(ranges, inputs)
    {
        return cuda::pack(modules, ranges, [groups, inputs], scale, cuda);
    }
    cpu::pack(modules, ranges, a.device(), [groups, inputs], scale, dtype)
}

/// Multiplies rows `[N, K]` by the transpose of their group's `[P, K]`.
fn down(x: &Tensor, a: &Tensor, groups: &Groups) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device()
        && x.dtype() == DType::BF16
        && cuda::fits(a.dim(1)?, a.dim(2)?)
    {
        return cuda::down(x, a, groups, cuda);
    }
    grouped::matmul(x, &a.transpose(1, 2)?, groups, &Addends::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{dot, finite_differences, random};
    use candle_core::Device;

    /// Two modules with updates and one without, in three groups.
    fn modules(a: &Tensor, b: &Tensor) -> Vec<(usize, Option<Factors>)> {
        let factors = |a: Tensor, b: Tensor| Some(Factors { a, b });
        vec![
            (4, factors(a.clone(), b.clone())),
            (2, None),
            (4, factors((a * 0.5).unwrap(), (b * 2.0).unwrap())),
        ]
    }

    #[test]
    fn gradients() {
        let groups = Groups::new(&[0, 4, 4, 7], &Device::Cpu).unwrap();
        let (x, w) = (random(1, &[7, 6]), random(5, &[3, 6, 10]));
        let (a, b) = (random(2, &[3 * 2, 6]), random(3, &[4, 2 * 3]));
        let dy = random(4, &[7, 10]);
        let pack = |a: &Tensor, b: &Tensor| Pack::new(&modules(a, b), 3, 0.7, DType::F32).unwrap();
        let f = |x: &Tensor, a: &Tensor, b: &Tensor| {
            let pack = pack(a, b);
            let xa = pack.down(x, &groups).unwrap();
            let low_rank = Some(pack.up(&xa, false).unwrap());
            let addends = Addends {
                bias: None,
                low_rank,
            };
            dot(&grouped::matmul(x, &w, &groups, &addends).unwrap(), &dy)
        };
        let packed = pack(&a, &b);
        let xa = packed.down(&x, &groups).unwrap();
        let dxa = packed.down_backward(&dy, &groups).unwrap();
        let grads = packed.gradients(&x, &dxa, &xa, &dy, &groups).unwrap();
        let addends = Addends {
            bias: None,
            low_rank: Some(packed.input_grad(dxa)),
        };
        let dx = grouped::matmul(&dy, &w.transpose(1, 2).unwrap(), &groups, &addends).unwrap();
        finite_differences(&x, &dx, |x| f(x, &a, &b));
        assert!(grads[1].is_none());
        let (one, other) = (grads[0].clone().unwrap(), grads[2].clone().unwrap());
        let da = (one.a + (other.a * 0.5).unwrap()).unwrap();
        let db = (one.b + (other.b * 2.0).unwrap()).unwrap();
        finite_differences(&a, &da, |a| f(&x, a, &b));
        finite_differences(&b, &db, |b| f(&x, &a, b));
    }
}
