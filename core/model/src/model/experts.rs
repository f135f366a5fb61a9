//! The experts' matrices: stored packed (MXFP4) or dense, with low-rank updates per expert.

use super::param::{Param, Weight};
use crate::ops::grouped::{self, Plus};
use crate::ops::lora::{Factors, Lowered, Pack};
use crate::ops::{Groups, mxfp4};
use anyhow::Result;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// One matrix of each expert, `x @ w`.
#[derive(Debug)]
pub enum Matrix {
    /// MXFP4: blocks `[E, O, I / 32, 16]` and scales `[E, O, I / 32]`.
    Packed {
        /// Nibbles.
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
    /// The matrices.
    pub matrix: Matrix,
    /// `[E, O]`.
    pub bias: Weight,
    /// The updates.
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

/// With fewer rows an expert than this, it is worth asking which experts have any.
const FEW_ROWS: usize = 8;

/// Gradient by the output of experts.
pub struct Dy {
    /// `[N, O]`, before the weights.
    pub rows: Tensor,
    /// What each row is weighed with before it reaches the parameters, `[N]` f32. The gradient by the input is that of `rows` as they are.
    pub weights: Option<Tensor>,
}

impl Dy {
    /// Other rows of the same experts, weighed.
    fn weigh(&self, rows: &Tensor) -> Result<Tensor> {
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
    /// Takes rows `x` `[N, I]`, grouped by expert, through the first factor of the update, if there is one.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn lower(&self, x: &Tensor, experts: &Groups) -> Result<Option<Lowered>> {
        match &self.lora {
            None => Ok(None),
            Some(lora) => {
                let pack = lora.pack(self.dims().2, x.dtype())?;
                pack.lower(x, experts).map(Some)
            }
        }
    }

    /// Rows `x` `[N, I]`, grouped by expert, to `[N, O]`; `low` is what [`lower`](Self::lower) gave.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, low: Option<&Lowered>, experts: &Groups) -> Result<Tensor> {
        let bias = Some(self.bias.get(x.dtype())?);
        let mut plus = Plus { bias, low: None };
        if let Some(Lowered { pack, xa }) = low {
            plus.low = Some(pack.up(xa, self.turned())?);
        }
        self.product(x, experts, plus, false)
    }

    /// Gradient by `x`; `input` gives `x` again if a trained part needs it.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(
        &self,
        input: impl FnOnce() -> Result<Tensor>,
        low: Option<&Lowered>,
        dy: Dy,
        experts: &Groups,
    ) -> Result<Tensor> {
        let mut plus = Plus::default();
        self.bias
            .accumulate(|| grouped::bias_grad(&dy.weigh(&dy.rows)?, experts))?;
        if let (Some(lora), Some(Lowered { pack, xa })) = (&self.lora, low) {
            let dxa = pack.down_back(&dy.rows, experts)?;
            let (by_xa, weighed) = (dy.weigh(&dxa)?, dy.weigh(xa)?);
            let gradients = pack.gradients(&input()?, &by_xa, &weighed, &dy.rows, experts)?;
            for gradient in gradients.into_iter().flatten() {
                lora.a.accumulate(gradient.a)?;
                lora.b.accumulate(gradient.b)?;
            }
            plus.low = Some(pack.back(dxa));
        } else if let Matrix::Dense(weight) = &self.matrix {
            weight.accumulate(|| grouped::weight_grad(&dy.weigh(&input()?)?, &dy.rows, experts))?;
        }
        self.product(&dy.rows, experts, plus, true)
    }

    /// The rows times the matrices `[E, I, O]`, or for the way back `[E, O, I]`. Where few experts can have rows, packed matrices are
    /// unpacked for those alone.
    fn product(&self, x: &Tensor, experts: &Groups, plus: Plus, back: bool) -> Result<Tensor> {
        let seen = |w: Tensor| match back {
            true => w.transpose(1, 2),
            false => Ok(w),
        };
        let (blocks, scales) = match &self.matrix {
            Matrix::Dense(weight) => {
                let w = seen(weight.get(x.dtype())?)?;
                return grouped::matmul(x, &w, experts, &plus);
            }
            Matrix::Packed { blocks, scales } => (blocks, scales),
        };
        if experts.rows() >= FEW_ROWS * experts.count() {
            let w = seen(mxfp4::dequantize(blocks, scales)?.transpose(1, 2)?)?;
            return grouped::matmul(x, &w, experts, &plus);
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
        let y = grouped::matmul(x, &w, &groups, &Plus::default())?;
        grouped::add(y, experts, &plus)
    }

    /// Whether the matrices are transposed views of `[E, O, I]` in memory.
    fn turned(&self) -> bool {
        match &self.matrix {
            Matrix::Packed { .. } => true,
            Matrix::Dense(Weight::Frozen(w)) => !w.is_contiguous(),
            Matrix::Dense(Weight::Trainable(_)) => false,
        }
    }

    /// Experts, inputs, outputs.
    pub fn dims(&self) -> (usize, usize, usize) {
        match &self.matrix {
            Matrix::Packed { scales, .. } => {
                let dims = scales.dims();
                (dims[0], dims[2] * 32, dims[1])
            }
            Matrix::Dense(weight) => {
                let dims = weight.dims();
                (dims[0], dims[1], dims[2])
            }
        }
    }
}
