//! The experts' matrices: stored packed (MXFP4) or dense, with low-rank updates per expert.

use super::param::{Param, Weight};
use crate::ops::lora::Pair;
use crate::ops::{grouped, mxfp4};
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
    /// A as `[E, R, I]` and B as `[E, R, O]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn pair(&self) -> Result<Pair> {
        let (a, b) = (self.a.value(), self.b.value());
        let ((re, i), (o, _)) = (a.dims2()?, b.dims2()?);
        let rank = re / self.experts;
        Ok(Pair {
            a: a.reshape((self.experts, rank, i))?,
            b: b.reshape((o, rank, self.experts))?
                .permute((2, 1, 0))?
                .contiguous()?,
            scale: self.scale,
        })
    }

    fn accumulate(&self, da: &Tensor, db: &Tensor) -> Result<()> {
        self.a.accumulate(da.reshape(self.a.value().dims())?)?;
        self.b.accumulate(
            db.permute((2, 1, 0))?
                .contiguous()?
                .reshape(self.b.value().dims())?,
        )
    }
}

impl ExpertLinear {
    /// Rows `x` `[N, I]`, grouped by `offsets`, to `[N, O]`, and `x A^T` if there is an update.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, offsets: &[usize]) -> Result<(Tensor, Option<Tensor>)> {
        let (w, groups) = self.matrices(x.dtype(), offsets)?;
        let y = grouped::matmul(x, &w, groups.as_deref().unwrap_or(offsets))?;
        let y = grouped::add_bias(y, &self.bias.get(x.dtype())?, offsets)?;
        match &self.lora {
            None => Ok((y, None)),
            Some(lora) => {
                let (update, xa) = crate::ops::lora::grouped_forward(x, &lora.pair()?, offsets)?;
                Ok(((y + update)?, Some(xa)))
            }
        }
    }

    /// Gradient by `x`; `input` gives `x` again if a trained part needs it.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(
        &self,
        input: impl FnOnce() -> Result<Tensor>,
        xa: Option<&Tensor>,
        dy: &Tensor,
        offsets: &[usize],
    ) -> Result<Tensor> {
        self.bias.accumulate(|| grouped::bias_grad(dy, offsets))?;
        let (w, groups) = self.matrices(dy.dtype(), offsets)?;
        let groups = groups.as_deref().unwrap_or(offsets);
        let dx = grouped::matmul(dy, &w.transpose(1, 2)?, groups)?;
        drop(w);
        match (&self.lora, xa, &self.matrix) {
            (Some(lora), Some(xa), _) => {
                let grads =
                    crate::ops::lora::grouped_backward(&input()?, &lora.pair()?, xa, dy, offsets)?;
                lora.accumulate(&grads.da, &grads.db)?;
                Ok((dx + grads.dx)?)
            }
            (_, _, Matrix::Dense(weight)) => {
                weight.accumulate(|| grouped::weight_grad(&input()?, dy, offsets))?;
                Ok(dx)
            }
            _ => Ok(dx),
        }
    }

    /// The matrices as `[E, I, O]`. Where only few experts have rows, packed ones are unpacked for
    /// those alone, and the second value groups the rows by them.
    fn matrices(&self, dtype: DType, offsets: &[usize]) -> Result<(Tensor, Option<Vec<usize>>)> {
        let (blocks, scales) = match &self.matrix {
            Matrix::Dense(weight) => return Ok((weight.get(dtype)?, None)),
            Matrix::Packed { blocks, scales } => (blocks, scales),
        };
        let used: Vec<u32> = grouped::filled(offsets).map(|(e, _)| e as u32).collect();
        if used.is_empty() || used.len() > (offsets.len() - 1) / 2 {
            return Ok((mxfp4::dequantize(blocks, scales)?.transpose(1, 2)?, None));
        }
        let mut groups = vec![0];
        groups.extend(grouped::filled(offsets).map(|(_, rows)| rows.end));
        let used = Tensor::new(used.as_slice(), blocks.device())?;
        let w = mxfp4::dequantize(
            &blocks.index_select(&used, 0)?,
            &scales.index_select(&used, 0)?,
        )?;
        Ok((w.transpose(1, 2)?, Some(groups)))
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
