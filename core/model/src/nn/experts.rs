//! The experts' matrices, stored packed (MXFP4) or dense, with a low-rank update of each expert or what a tuner adds to each.

use super::param::{Param, Weight};
use super::tuned::{Tape as TunedTape, Tuned};
use super::updates::{self, SiteUpdates};
use crate::ops::grouped::{self, Addends};
use crate::ops::lora::{Factors, Pack, PackTape};
use crate::ops::{Groups, mxfp4};
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The matrices of all experts; an expert computes `x @ w`.
#[derive(Debug)]
pub enum ExpertWeight {
    /// MXFP4: blocks `[E, O, I / 32, 16]` and scales `[E, O, I / 32]`.
    Packed {
        /// Two values in each byte.
        blocks: Weight,
        /// Powers of two.
        scales: Weight,
    },
    /// `[E, I, O]`, as transformers holds it.
    Dense(Weight),
}

/// One linear layer of each expert.
#[derive(Debug)]
pub struct ExpertLinear {
    /// Name of the parameter: `model.layers.0.mlp.experts.gate_up_proj`.
    pub name: String,
    /// The matrices of the experts.
    pub matrix: ExpertWeight,
    /// `[E, O]`.
    pub bias: Option<Weight>,
    /// The low-rank updates.
    pub lora: Option<ExpertLora>,
    /// A tuner, in place of low-rank updates; its parameters `[E, ..]` have those of each expert.
    pub tuned: Option<Tuned>,
    /// The most experts that are unpacked at a time; all if none is given. With fewer a product takes less memory and
    /// waits for the device.
    pub unpacked_at_once: Option<usize>,
}

/// A low-rank update of each expert, in PEFT's layouts (`peft.tuners.lora.ParamWrapper`).
#[derive(Debug)]
pub struct ExpertLora {
    /// `[R E, I]`, the rows of an expert together.
    pub a: Arc<Param>,
    /// `[O, R E]`, the columns of a rank together.
    pub b: Arc<Param>,
    /// `alpha / r`.
    pub scale: f64,
    /// Number of experts.
    pub experts: usize,
}

/// What [`ExpertLinear::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    lora: Option<PackTape>,
    tuned: Option<TunedTape>,
}

impl Tape {
    /// What a tuner has made of the output, f32, if there is one.
    pub fn tuned_output(&self) -> Option<Result<Tensor>> {
        self.tuned.as_ref().map(TunedTape::output)
    }
}

impl ExpertLora {
    fn pack(&self, outputs: usize, dtype: DType) -> Result<Pack> {
        let factors = Factors {
            a: self.a.value(),
            b: self.b.value(),
        };
        Pack::new(&[(outputs, Some(factors))], self.experts, self.scale, dtype)
    }
}

/// With fewer rows than this for each expert, it pays to find out which experts have any.
const FEW_ROWS: usize = 8;

/// The gradient by the output of experts.
pub struct OutputGrad {
    /// `[N, O]`, not yet multiplied by the routing weights.
    pub rows: Tensor,
    /// The routing weight of each row, `[N]` f32, for gradients by parameters. The gradient by the input is taken from
    /// `rows` alone.
    pub weights: Option<Tensor>,
}

impl OutputGrad {
    /// Multiplies rows of the same experts by the routing weights, if there are any.
    fn weighted(&self, rows: &Tensor) -> Result<Tensor> {
        match &self.weights {
            None => Ok(rows.clone()),
            Some(weights) => {
                let weighed = rows
                    .to_dtype(DType::F32)?
                    .broadcast_mul(&weights.unsqueeze(1)?)?;
                Ok(weighed.to_dtype(rows.dtype())?)
            }
        }
    }
}

impl ExpertLinear {
    /// Takes rows `x` `[N, I]`, grouped by expert, to `[N, O]`.
    pub fn forward(&self, x: &Tensor, experts: &Groups) -> Result<(Tensor, Tape)> {
        let Some(tuned) = &self.tuned else {
            let tape = self.untuned_tape(x, experts)?;
            return Ok((self.base(x, tape.lora.as_ref(), experts)?, tape));
        };
        let told = tuned.forward_grouped(x, experts, |x| self.base(x, None, experts));
        let (y, tape) = told.with_context(|| self.name.clone())?;
        let (lora, tuned) = (None, Some(tape));
        Ok((y, Tape { lora, tuned }))
    }

    /// Makes the tape of [`forward`](Self::forward) again, without the product where no tuner needs it.
    pub fn recompute(&self, x: &Tensor, experts: &Groups) -> Result<Tape> {
        match self.tuned {
            Some(_) => Ok(self.forward(x, experts)?.1),
            None => self.untuned_tape(x, experts),
        }
    }

    /// Takes rows through A of the low-rank update, if there is one.
    fn untuned_tape(&self, x: &Tensor, experts: &Groups) -> Result<Tape> {
        let lora = self.lora.as_ref().map(|lora| {
            let pack = lora.pack(self.dims().2, x.dtype())?;
            pack.into_tape(x, experts)
        });
        let lora = lora.transpose()?;
        Ok(Tape { lora, tuned: None })
    }

    /// The product with the biases, and with the low-rank updates that are on this tape.
    fn base(&self, x: &Tensor, tape: Option<&PackTape>, experts: &Groups) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| b.get(x.dtype()));
        let bias = bias.transpose()?;
        let mut addends = Addends {
            bias,
            low_rank: None,
        };
        if let Some(PackTape { pack, xa }) = tape {
            addends.low_rank = Some(pack.up(xa, self.is_transposed())?);
        }
        self.product(x, experts, addends, false)
    }

    /// The same with these updates in place of its own.
    pub fn step(&self, x: &Tensor, experts: &Groups, updates: SiteUpdates) -> Result<Tensor> {
        updates::add(self.base(x, None, experts)?, x, updates)
    }

    /// Returns the gradient by `x`; `input` computes `x` again if a trained part needs it.
    pub fn backward(
        &self,
        input: impl FnOnce() -> Result<Tensor>,
        tape: &Tape,
        dy: OutputGrad,
        experts: &Groups,
    ) -> Result<Tensor> {
        let (Some(tuned), Some(of_tuner)) = (&self.tuned, &tape.tuned) else {
            return self.backward_untuned(input, tape.lora.as_ref(), dy, experts);
        };
        let dtype = dy.rows.dtype();
        let dout = dy.weighted(&dy.rows)?;
        let back = |rows: &Tensor| {
            let dy = OutputGrad {
                rows: rows.clone(),
                weights: None,
            };
            let input = || Ok(of_tuner.input()?.to_dtype(dtype)?);
            self.backward_untuned(input, None, dy, experts)
        };
        let dx = tuned.backward(of_tuner, &dout, back);
        dx.with_context(|| self.name.clone())
    }

    fn backward_untuned(
        &self,
        input: impl FnOnce() -> Result<Tensor>,
        tape: Option<&PackTape>,
        dy: OutputGrad,
        experts: &Groups,
    ) -> Result<Tensor> {
        let mut addends = Addends::default();
        if let Some(bias) = &self.bias {
            bias.accumulate(|| grouped::bias_grad(&dy.weighted(&dy.rows)?, experts))?;
        }
        if let (Some(lora), Some(PackTape { pack, xa })) = (&self.lora, tape) {
            let dxa = pack.down_backward(&dy.rows, experts)?;
            if !lora.a.is_frozen() {
                let all = pack.gradients_by_a(&input()?, &dy.weighted(&dxa)?, experts)?;
                let mut all = all.into_iter().flatten();
                all.try_for_each(|gradient| lora.a.accumulate(gradient))?;
            }
            if !lora.b.is_frozen() {
                let all = pack.gradients_by_b(&dy.weighted(xa)?, &dy.rows, experts)?;
                let mut all = all.into_iter().flatten();
                all.try_for_each(|gradient| lora.b.accumulate(gradient))?;
            }
            addends.low_rank = Some(pack.input_grad(dxa));
        } else if let ExpertWeight::Dense(weight) = &self.matrix {
            weight
                .accumulate(|| grouped::weight_grad(&dy.weighted(&input()?)?, &dy.rows, experts))?;
        }
        self.product(&dy.rows, experts, addends, true)
    }

    /// The matrix `[O, I]` of an expert, f32.
    ///
    /// # Errors
    /// There are fewer experts, or out of memory.
    pub fn matrix_of(&self, expert: usize) -> Result<Tensor> {
        let matrix = match &self.matrix {
            ExpertWeight::Dense(weight) => weight.get(weight.stored())?.get(expert)?.t()?,
            ExpertWeight::Packed { blocks, scales } => {
                let of = |packed: &Weight| -> Result<Tensor> {
                    Ok(packed.get(DType::U8)?.narrow(0, expert, 1)?)
                };
                mxfp4::dequantize(&of(blocks)?, &of(scales)?)?.squeeze(0)?
            }
        };
        Ok(matrix.to_dtype(DType::F32)?.contiguous()?)
    }

    /// Multiplies rows by the matrices `[E, I, O]`, or with `back` by their transposes. Where few experts can have rows,
    /// only the matrices of those are unpacked; and as many at a time as are allowed.
    fn product(
        &self,
        x: &Tensor,
        experts: &Groups,
        addends: Addends,
        back: bool,
    ) -> Result<Tensor> {
        let seen = |w: Tensor| match back {
            true => w.transpose(1, 2),
            false => Ok(w),
        };
        let (blocks, scales) = match &self.matrix {
            ExpertWeight::Dense(weight) => {
                let w = seen(weight.get(x.dtype())?)?;
                return grouped::matmul(x, &w, experts, &addends);
            }
            ExpertWeight::Packed { blocks, scales } => {
                (blocks.get(DType::U8)?, scales.get(DType::U8)?)
            }
        };
        let unpacked = |part: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
            let w = mxfp4::dequantize(&part(&blocks)?, &part(&scales)?)?;
            Ok::<_, anyhow::Error>(seen(w.transpose(1, 2)?)?)
        };
        let count = experts.count();
        let at_once = self.unpacked_at_once.unwrap_or(count).clamp(1, count);
        if experts.rows() >= FEW_ROWS * count {
            if at_once == count {
                let w = unpacked(&|packed| Ok(packed.clone()))?;
                return grouped::matmul(x, &w, experts, &addends);
            }
            return by_ranges(x, experts, &addends, at_once, &|range| {
                unpacked(&|packed| packed.narrow(0, range.start, range.len()))
            });
        }
        let (mut used, mut offsets) = (Vec::new(), vec![0]);
        for (expert, rows) in experts.filled()? {
            used.push(expert as u32);
            offsets.push(rows.end);
        }
        let groups = Groups::new(&offsets, x.device())?;
        let y = by_ranges(x, &groups, &Addends::default(), at_once, &|range| {
            let used = Tensor::new(&used[range], x.device())?;
            unpacked(&|packed| packed.index_select(&used, 0))
        })?;
        grouped::add(y, experts, &addends)
    }

    /// Whether the matrices are transposed views of `[E, O, I]` in memory.
    fn is_transposed(&self) -> bool {
        match &self.matrix {
            ExpertWeight::Packed { .. } => true,
            ExpertWeight::Dense(Weight::Frozen(w)) => !w.is_contiguous(),
            ExpertWeight::Dense(Weight::Sharded(w)) => w.is_turned(),
            ExpertWeight::Dense(Weight::Trainable(_)) => false,
        }
    }

    /// The number of experts, of inputs and of outputs.
    pub fn dims(&self) -> (usize, usize, usize) {
        match &self.matrix {
            ExpertWeight::Packed { scales, .. } => {
                let dims = scales.dims();
                (dims[0], dims[2] * 32, dims[1])
            }
            ExpertWeight::Dense(weight) => {
                let dims = weight.dims();
                (dims[0], dims[1], dims[2])
            }
        }
    }
}

/// The product of rows with the matrices of `at_once` groups at a time, which `matrices` makes of their numbers. A group has the
/// same numbers in it as if all were made at once.
fn by_ranges(
    x: &Tensor,
    groups: &Groups,
    addends: &Addends,
    at_once: usize,
    matrices: &dyn Fn(Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let count = groups.count();
    if at_once >= count {
        return grouped::matmul(x, &matrices(0..count)?, groups, addends);
    }
    let offsets = groups.host_offsets()?;
    let mut y: Option<Tensor> = None;
    for first in (0..count).step_by(at_once) {
        let range = first..(first + at_once).min(count);
        let rows = offsets[range.start]..offsets[range.end];
        if rows.is_empty() {
            continue;
        }
        let own: Vec<usize> = offsets[range.start..=range.end]
            .iter()
            .map(|offset| offset - rows.start)
            .collect();
        let part = grouped::matmul(
            &x.narrow(0, rows.start, rows.len())?,
            &matrices(range.clone())?,
            &Groups::new(&own, x.device())?,
            &addends.of_groups(&range, &rows)?,
        )?;
        if y.is_none() {
            let shape = (groups.rows(), part.dim(1)?);
            y = Some(Tensor::zeros(shape, part.dtype(), part.device())?);
        }
        if let Some(y) = &y {
            y.slice_set(&part, 0, rows.start)?;
        }
    }
    match y {
        Some(y) => Ok(y),
        None => grouped::matmul(x, &matrices(0..count)?, groups, addends),
    }
}
