//! Updates of one or several modules that share their input, packed for products.
//!
//! The modules' outputs lie side by side (q, k, v of an attention), their ranks too, so that one narrow product gives `x A^T` of
//! all of them and one low-rank part ([`grouped::Low`]) of the wide product applies all. Rows may lie in groups, each with
//! factors of its own (experts).

use crate::ops::grouped::{self, Low, Plus};
use crate::ops::groups::Groups;
use crate::profile::{self, Group};
use anyhow::{Result, ensure};
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

/// Rows after the first factor, and the pack they went through, for what comes after and for the way back.
#[derive(Debug)]
pub struct Lowered {
    /// The factors.
    pub pack: Pack,
    /// `x A^T`, `[N, P]`.
    pub xa: Tensor,
}

/// Where a module's factors lie in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its rank; 0 if it has no update.
    pub rank: usize,
    /// Its first rank among all.
    pub first: usize,
    /// Rows of A that it fills: its rank, and for the last module what pads the ranks.
    pub rows: usize,
    /// Its first output among all.
    pub at: usize,
    /// Its outputs.
    pub width: usize,
}

/// Elements from one group, column and rank of a gradient to the next.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    /// Groups.
    pub group: usize,
    /// Columns: inputs of A, outputs of B.
    pub column: usize,
    /// Ranks.
    pub rank: usize,
}

/// Packed factors in the compute type; `P` is the sum of the ranks, a multiple of 8 on CUDA.
#[derive(Debug)]
pub struct Pack {
    /// `[G, P, I]`.
    a: Tensor,
    /// `scale * B`, `[G, O, P]`.
    wide: Tensor,
    /// `scale * B`, `[G, P, O]`.
    tall: Tensor,
    places: Vec<Place>,
    scale: f64,
}

impl Pack {
    /// Packs modules of `widths` outputs; those without factors have no update.
    ///
    /// # Errors
    /// Shapes do not fit, or no module has factors.
    pub fn new(
        modules: &[(usize, Option<Factors>)],
        groups: usize,
        scale: f64,
        dtype: DType,
    ) -> Result<Self> {
        let _span = profile::whole(Group::Lora);
        let rank = |factors: &Option<Factors>| -> Result<usize> {
            Ok(match factors {
                Some(factors) => factors.a.dim(0)? / groups,
                None => 0,
            })
        };
        let (mut places, mut first, mut at) = (Vec::new(), 0, 0);
        for (width, factors) in modules {
            let (rank, width) = (rank(factors)?, *width);
            places.push(Place {
                rank,
                first,
                rows: rank,
                at,
                width,
            });
            (first, at) = (first + rank, at + width);
        }
        let found = modules.iter().find_map(|(_, factors)| factors.as_ref());
        let Some(Factors { a, .. }) = found else {
            anyhow::bail!("a pack of updates without any");
        };
        let inputs = a.dim(1)?;
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = a.device() {
            use crate::ops::cuda::lora;
            let pitch = first.next_multiple_of(8);
            if dtype == DType::BF16
                && lora::fits(pitch, inputs)
                && places.iter().all(|place| place.width % 8 == 0)
            {
                let [a, wide, tall] = lora::room([groups, pitch, inputs, at], cuda)?;
                let last = places.iter().rposition(|place| place.rank > 0);
                for (index, (place, (_, factors))) in places.iter_mut().zip(modules).enumerate() {
                    if Some(index) == last {
                        place.rows = pitch - place.first;
                    }
                    if let Some(factors) = factors {
                        lora::pack_a(&a, &factors.a, *place, cuda)?;
                    }
                    let b = factors.as_ref().map(|factors| &factors.b);
                    lora::pack_b([&wide, &tall], b, scale, *place, cuda)?;
                }
                return Ok(Self {
                    a,
                    wide,
                    tall,
                    places,
                    scale,
                });
            }
        }
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for (place, (width, factors)) in places.iter().zip(modules) {
            let Some(Factors { a, b }) = factors else {
                columns.push(Tensor::zeros(
                    (groups, *width, first),
                    DType::F32,
                    a.device(),
                )?);
                continue;
            };
            ensure!(
                b.dims() == [*width, place.rank * groups],
                "lora: A {:?} and B {:?} do not fit",
                a.dims(),
                b.dims()
            );
            rows.push(a.reshape((groups, place.rank, inputs))?);
            let wide = b
                .reshape((*width, place.rank, groups))?
                .permute((2, 0, 1))?
                .contiguous()?;
            let wide = (wide * scale)?;
            let behind = first - place.first - place.rank;
            columns.push(wide.pad_with_zeros(2, place.first, behind)?);
        }
        let wide = Tensor::cat(&columns, 1)?.to_dtype(dtype)?;
        Ok(Self {
            a: Tensor::cat(&rows, 1)?.to_dtype(dtype)?,
            tall: wide.transpose(1, 2)?.contiguous()?,
            wide,
            places,
            scale,
        })
    }

    /// Takes rows `[N, I]` through the first factor.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn lower(self, x: &Tensor, groups: &Groups) -> Result<Lowered> {
        let xa = self.down(x, groups)?;
        Ok(Lowered { pack: self, xa })
    }

    /// `x A^T`, `[N, P]`, of rows `[N, I]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn down(&self, x: &Tensor, groups: &Groups) -> Result<Tensor> {
        let _span = profile::whole(Group::Lora);
        down(x, &self.a, groups)
    }

    /// What is added to the product of the modules' matrices, from [`down`](Self::down)'s result. `turned`: the matrices
    /// are transposed views.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn up(&self, xa: &Tensor, turned: bool) -> Result<Low> {
        Ok(Low {
            x: xa.clone(),
            w: match turned {
                true => self.wide.transpose(1, 2)?,
                false => self.tall.clone(),
            },
        })
    }

    /// Gradient by `x A^T`, `[N, P]`, from `dy` `[N, O]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn down_back(&self, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
        let _span = profile::whole(Group::Lora);
        down(dy, &self.tall, groups)
    }

    /// Gradients by the factors of each module, in PEFT's layouts: `x^T dxa` and `dy^T xa`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn gradients(
        &self,
        x: &Tensor,
        dxa: &Tensor,
        xa: &Tensor,
        dy: &Tensor,
        groups: &Groups,
    ) -> Result<Vec<Option<Factors>>> {
        let _span = profile::whole(Group::Lora);
        let da = self.by_a(x, dxa, groups)?;
        let db = self.by_b(xa, dy, groups)?;
        let count = groups.count();
        let mut gradients = Vec::new();
        for place in &self.places {
            let Place {
                rank,
                first,
                at,
                width,
                ..
            } = *place;
            gradients.push(match rank {
                0 => None,
                _ => {
                    let a = da.narrow(1, first, rank)?.contiguous()?;
                    let b = db.narrow(0, at, width)?.narrow(1, first, rank)?;
                    Some(Factors {
                        a: a.reshape((count * rank, x.dim(1)?))?,
                        b: b.contiguous()?.reshape((width, rank * count))?,
                    })
                }
            });
        }
        Ok(gradients)
    }

    /// What is added to the gradient by the input, from the gradient by `x A^T`; its matrices are as they lie.
    pub fn back(&self, dxa: Tensor) -> Low {
        Low {
            x: dxa,
            w: self.a.clone(),
        }
    }

    /// Sum of all ranks.
    fn rank(&self) -> usize {
        self.places.iter().map(|place| place.rank).sum()
    }

    /// `[G, R, I]` f32.
    fn by_a(&self, x: &Tensor, dxa: &Tensor, groups: &Groups) -> Result<Tensor> {
        let (rank, inputs, count) = (self.rank(), x.dim(1)?, groups.count());
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = x.device()
            && crate::ops::cuda::lora::fits(dxa.dim(1)?, inputs)
        {
            let strides = Strides {
                group: rank * inputs,
                column: 1,
                rank: inputs,
            };
            let sum = crate::ops::cuda::lora::gradient(x, dxa, groups, rank, strides, 1.0, cuda)?;
            return Ok(sum.reshape((count, rank, inputs))?);
        }
        let all = grouped::weight_grad(dxa, x, groups)?;
        Ok(all.narrow(1, 0, rank)?.reshape((count, rank, inputs))?)
    }

    /// `[O, R, G]` f32.
    fn by_b(&self, xa: &Tensor, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
        let rank = self.rank();
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = dy.device()
            && crate::ops::cuda::lora::fits(xa.dim(1)?, dy.dim(1)?)
        {
            let (outputs, count) = (dy.dim(1)?, groups.count());
            let strides = Strides {
                group: 1,
                column: rank * count,
                rank: count,
            };
            let scale = self.scale;
            let sum = crate::ops::cuda::lora::gradient(dy, xa, groups, rank, strides, scale, cuda)?;
            return Ok(sum.reshape((outputs, rank, count))?);
        }
        let all = (grouped::weight_grad(xa, dy, groups)? * self.scale)?;
        Ok(all.narrow(1, 0, rank)?.permute((2, 1, 0))?)
    }
}

/// Rows `[N, K]` times the transpose of their group's `[P, K]`.
fn down(x: &Tensor, a: &Tensor, groups: &Groups) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device()
        && x.dtype() == DType::BF16
        && crate::ops::cuda::lora::fits(a.dim(1)?, a.dim(2)?)
    {
        return crate::ops::cuda::lora::down(x, a, groups, cuda);
    }
    grouped::matmul(x, &a.transpose(1, 2)?, groups, &Plus::default())
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
            let low = Some(pack.up(&xa, false).unwrap());
            let plus = Plus { bias: None, low };
            dot(&grouped::matmul(x, &w, &groups, &plus).unwrap(), &dy)
        };
        let packed = pack(&a, &b);
        let xa = packed.down(&x, &groups).unwrap();
        let dxa = packed.down_back(&dy, &groups).unwrap();
        let grads = packed.gradients(&x, &dxa, &xa, &dy, &groups).unwrap();
        let plus = Plus {
            bias: None,
            low: Some(packed.back(dxa)),
        };
        let dx = grouped::matmul(&dy, &w.transpose(1, 2).unwrap(), &groups, &plus).unwrap();
        finite_differences(&x, &dx, |x| f(x, &a, &b));
        assert!(grads[1].is_none());
        let (one, other) = (grads[0].clone().unwrap(), grads[2].clone().unwrap());
        let da = (one.a + (other.a * 0.5).unwrap()).unwrap();
        let db = (one.b + (other.b * 2.0).unwrap()).unwrap();
        finite_differences(&a, &da, |a| f(&x, a, &b));
        finite_differences(&b, &db, |b| f(&x, &a, b));
    }
}
