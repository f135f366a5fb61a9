//! The operations of a step for a few tokens, one to some hundred, between which nothing waits for the host.
//!
//! Results go to tensors of the caller, and on a card nothing is allocated and no size is read from the device, so that a step can be
//! captured as a CUDA graph. A matrix is read once, MXFP4 as it is stored. A row has the same bits among any other rows; only
//! [`product`] of many rows has not, unless it is asked to.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::swiglu::Activation;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

/// The experts' outputs of each token, to be summed.
#[derive(Debug, Clone, Copy)]
pub struct Choices<'a> {
    /// A row for each pair of a token and a choice, `[T K, H]` f32.
    pub rows: &'a Tensor,
    /// The weights of the rows, `[T, K]` f32.
    pub weights: &'a Tensor,
}

/// Writes `x + delta + the weighted sum of choices` to `sum` and its normed rows to `y`; all are `[T, H]`, `w` is `[H]`.
///
/// # Errors
/// Shapes do not fit, or on a card H is no multiple of 8 or too wide.
pub fn norm(
    y: &Tensor,
    sum: Option<&Tensor>,
    x: &Tensor,
    delta: Option<&Tensor>,
    choices: Option<Choices>,
    (w, eps): (&Tensor, f64),
) -> Result<()> {
    let _span = profile::span(OpGroup::Norms);
    let (t, h) = x.dims2()?;
    let same = |tensor: Option<&Tensor>| tensor.is_none_or(|tensor| tensor.dims() == [t, h]);
    ensure!(
        same(Some(y)) && same(sum) && same(delta) && w.dims() == [h],
        "norm of rows: x {:?}, y {:?}, sum {:?}, delta {:?} and w {:?} do not fit",
        x.dims(),
        y.dims(),
        sum.map(Tensor::dims),
        delta.map(Tensor::dims),
        w.dims()
    );
    if let Some(Choices { rows, weights }) = choices {
        let (tokens, k) = weights.dims2()?;
        ensure!(
            tokens == t && rows.dims() == [t * k, h],
            "norm of rows: x {:?}, rows of experts {:?} and weights {:?} do not fit",
            x.dims(),
            rows.dims(),
            weights.dims()
        );
    }
    on_device!(x.device(), norm(y, sum, x, delta, choices, (w, eps)))
}

/// A matrix `[O, I]` for all rows, and what is added to the product.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// `[O, I]`.
    pub w: &'a Tensor,
    /// `[O]`.
    pub bias: Option<&'a Tensor>,
    /// `[T, O]`.
    pub residual: Option<&'a Tensor>,
}

/// Writes `x w^T + bias + residual` to `y` `[T, O]`, which on a card is bf16, or f32 where there is no residual. Without `alone`, many
/// rows may go to a kernel that is faster and gives a row other bits than it has among few.
///
/// # Errors
/// Shapes do not fit, or on a card I is no multiple of 8.
pub fn product(y: &Tensor, x: &Tensor, matrix: Matrix, alone: bool) -> Result<()> {
    let _span = profile::span(OpGroup::Projections);
    let ((t, i), (o, wi)) = (x.dims2()?, matrix.w.dims2()?);
    ensure!(
        i == wi
            && y.dims() == [t, o]
            && matrix.bias.is_none_or(|bias| bias.dims() == [o])
            && matrix.residual.is_none_or(|r| r.dims() == [t, o]),
        "product of rows: x {:?}, w {:?}, bias {:?}, residual {:?} and y {:?} do not fit",
        x.dims(),
        matrix.w.dims(),
        matrix.bias.map(Tensor::dims),
        matrix.residual.map(Tensor::dims),
        y.dims()
    );
    on_device!(x.device(), product(y, x, matrix, alone))
}

/// The experts of each token, and where the experts' kernels find their rows.
#[derive(Debug, Clone)]
pub struct Routes {
    /// The experts of each token, `[T, K]` u32.
    pub ids: Tensor,
    /// Their weights, `[T, K]` f32.
    pub weights: Tensor,
    /// The pairs `t K + j` by expert, `[T K]` u32.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    slots: Tensor,
    /// The expert, the first of its slots and the number of rows of each group, `[G, 3]` u32.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    groups: Tensor,
    experts: usize,
}

impl Routes {
    /// Makes room for the routes of `tokens` tokens to `k` of `experts` experts each.
    ///
    /// # Errors
    /// `k` is not in `1..=experts`, or there is no memory.
    pub fn new(tokens: usize, k: usize, experts: usize, device: &Device) -> Result<Self> {
        ensure!((1..=experts).contains(&k), "top-{k} of {experts} experts");
        #[cfg(feature = "cuda")]
        let groups = apus_kernels::most_groups(tokens, k, experts);
        #[cfg(not(feature = "cuda"))]
        let groups = 0;
        Ok(Self {
            ids: Tensor::zeros((tokens, k), DType::U32, device)?,
            weights: Tensor::zeros((tokens, k), DType::F32, device)?,
            slots: Tensor::zeros(tokens * k, DType::U32, device)?,
            groups: Tensor::zeros((groups, 3), DType::U32, device)?,
            experts,
        })
    }
}

/// Routes each token to the experts of its greatest `logits` `[T, E]` f32; of equal logits the lower expert comes first. The weights are
/// the softmax over those chosen.
///
/// # Errors
/// Shapes do not fit, or on a card there are more experts than its kernel sorts.
pub fn route(routes: &Routes, logits: &Tensor) -> Result<()> {
    let _span = profile::span(OpGroup::Routing);
    let (t, experts) = logits.dims2()?;
    ensure!(
        (t, experts) == (routes.ids.dim(0)?, routes.experts),
        "routes of {} tokens to {} experts: logits {:?} do not fit",
        routes.ids.dim(0)?,
        routes.experts,
        logits.dims()
    );
    on_device!(logits.device(), route(routes, logits))
}

/// The matrices of all experts.
#[derive(Debug, Clone, Copy)]
pub enum Matrices<'a> {
    /// MXFP4: blocks `[E, O, I / 32, 16]` and scales `[E, O, I / 32]`, u8.
    Packed {
        /// Two values in each byte.
        blocks: &'a Tensor,
        /// Powers of two.
        scales: &'a Tensor,
    },
    /// `[E, O, I]`; on a card contiguous.
    Dense(&'a Tensor),
}

/// One linear layer of each expert.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The matrices.
    pub matrices: Matrices<'a>,
    /// `[E, O]`.
    pub bias: Option<&'a Tensor>,
    /// What is added to the output of each pair of a token and a choice, `[T K, O]` f32.
    pub low_rank: Option<&'a Tensor>,
}

impl Layer<'_> {
    /// The number of experts, of inputs and of outputs.
    fn dims(&self) -> Result<(usize, usize, usize)> {
        match self.matrices {
            Matrices::Packed { blocks, scales } => {
                let (e, o, g) = scales.dims3()?;
                ensure!(
                    blocks.dims() == [e, o, g, 16],
                    "experts of rows: blocks {:?} and scales {:?} do not fit",
                    blocks.dims(),
                    scales.dims()
                );
                Ok((e, 32 * g, o))
            }
            Matrices::Dense(w) => {
                let (e, o, i) = w.dims3()?;
                Ok((e, i, o))
            }
        }
    }

    /// Checks that the layer takes `x` to `outputs` outputs for these routes, with `rows` rows of x.
    fn check(&self, x: &Tensor, rows: usize, outputs: &[usize], routes: &Routes) -> Result<()> {
        let (e, i, o) = self.dims()?;
        let pairs = routes.ids.elem_count();
        let fits = |tensor: Option<&Tensor>, shape| tensor.is_none_or(|t| t.dims() == shape);
        ensure!(
            e == routes.experts
                && x.dims() == [rows, i]
                && outputs == [pairs, o]
                && fits(self.bias, [e, o])
                && fits(self.low_rank, [pairs, o]),
            "experts of rows: {e} experts of {o} x {i} on x {:?} with bias {:?} and a low-rank term {:?} do not give {outputs:?} for {} \
             pairs of {} experts",
            x.dims(),
            self.bias.map(Tensor::dims),
            self.low_rank.map(Tensor::dims),
            pairs,
            routes.experts
        );
        Ok(())
    }
}

/// Writes the activation of each pair of a token and a choice, `h` `[T K, F]`, from `x` `[T, I]`; the layer's outputs are gates and values,
/// interleaved.
///
/// # Errors
/// Shapes do not fit, or a card has no kernel for them.
pub fn gate_up(
    h: &Tensor,
    x: &Tensor,
    layer: Layer,
    routes: &Routes,
    activation: Activation,
) -> Result<()> {
    let _span = profile::span(OpGroup::Experts);
    let (pairs, f) = h.dims2()?;
    layer.check(x, routes.ids.dim(0)?, &[pairs, 2 * f], routes)?;
    on_device!(x.device(), gate_up(h, x, layer, routes, activation))
}

/// Writes the output of each pair, `y` `[T K, H]` f32, from its activation `h` `[T K, F]`.
///
/// # Errors
/// Shapes do not fit, or a card has no kernel for them.
pub fn down(y: &Tensor, h: &Tensor, layer: Layer, routes: &Routes) -> Result<()> {
    let _span = profile::span(OpGroup::Experts);
    layer.check(h, routes.ids.elem_count(), y.dims(), routes)?;
    on_device!(h.device(), down(y, h, layer, routes))
}

#[cfg(test)]
mod tests;
