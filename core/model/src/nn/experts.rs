//! The experts' matrices, stored packed (MXFP4) or dense, with a low-rank update of each expert.

use super::param::{Param, Weight};
use crate::ops::grouped::{self, Addends};
use crate::ops::lora::{Factors, Pack, PackTape};
use crate::ops::{Groups, mxfp4};
use anyhow::Result;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// The matrices of all experts; an expert computes `x @ w`.
#[derive(Debug)]
pub enum ExpertWeight {
    /// MXFP4: blocks `[E, O, I / 32, 16]` and scales `[E, O, I / 32]`.
    Packed {
        /// Two values in each byte.
        blocks: Tensor,
        /// Powers of two.
        scales: Tensor,
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
    /// Takes rows `x` `[N, I]`, grouped by expert, through A of the low-rank update, if there is one.
    pub fn lora_tape(&self, x: &Tensor, experts: &Groups) -> Result<Option<PackTape>> {
        match &self.lora {
            None => Ok(None),
            Some(lora) => {
                let pack = lora.pack(self.dims().2, x.dtype())?;
                pack.into_tape(x, experts).map(Some)
            }
        }
    }

    /// Takes rows `x` `[N, I]`, grouped by expert, to `[N, O]`; `tape` is the result of [`lora_tape`](Self::lora_tape).
    pub fn forward(&self, x: &Tensor, tape: Option<&PackTape>, experts: &Groups) -> Result<Tensor> {
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

    /// Returns the gradient by `x`; `input` computes `x` again if a trained part needs it.
    pub fn backward(
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
            let (by_xa, weighed) = (dy.weighted(&dxa)?, dy.weighted(xa)?);
            let gradients = pack.gradients(&input()?, &by_xa, &weighed, &dy.rows, experts)?;
            for gradient in gradients.into_iter().flatten() {
                lora.a.accumulate(gradient.a)?;
                lora.b.accumulate(gradient.b)?;
            }
            addends.low_rank = Some(pack.input_grad(dxa));
        } else if let ExpertWeight::Dense(weight) = &self.matrix {
            weight
                .accumulate(|| grouped::weight_grad(&dy.weighted(&input()?)?, &dy.rows, experts))?;
        }
        self.product(&dy.rows, experts, addends, true)
    }

    /// Multiplies rows by the matrices `[E, I, O]`, or with `back` by their transposes. Where few experts can have rows,
    /// only the matrices of those are unpacked.
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
            ExpertWeight::Packed { blocks, scales } => (blocks, scales),
        };
        if experts.rows() >= FEW_ROWS * experts.count() {
            let w = seen(mxfp4::dequantize(blocks, scales)?.transpose(1, 2)?)?;
            return grouped::matmul(x, &w, experts, &addends);
        }
        let (mut used, mut offsets) = (Vec::new(), vec![0]);
        for (expert, rows) in experts.filled()? {
            used.push(expert as u32);
            offsets.push(rows.end);
        }
        let groups = Groups::new(&offsets, x.device())?;
        let used = Tensor::new(used.as_slice(), blocks.device())?;
        let w = mxfp4::dequantize(
            &blocks.index_select(&used, 0)?,
            &scales.index_select(&used, 0)?,
        )?;
        let w = seen(w.transpose(1, 2)?)?;
        let y = grouped::matmul(x, &w, &groups, &Addends::default())?;
        grouped::add(y, experts, &addends)
    }

    /// Whether the matrices are transposed views of `[E, O, I]` in memory.
    fn is_transposed(&self) -> bool {
        match &self.matrix {
            ExpertWeight::Packed { .. } => true,
            ExpertWeight::Dense(Weight::Frozen(w)) => !w.is_contiguous(),
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
