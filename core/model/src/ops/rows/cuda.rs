//! One kernel each; a product of many rows may go to cuBLAS.

use super::{Choices, Layer, Matrices, Matrix, Routes};
use crate::ops::cuda::{Operand, gemm, input, optional_input, output, pointer};
use crate::ops::linear;
use crate::ops::swiglu::{self, Activation};
use anyhow::{Result, ensure};
use apus_kernels::{
    MOST_NORM_WIDTH, MOST_ROUTED_EXPERTS, RowsLayout, Storage, rows_a_group, rows_dense_down,
    rows_dense_gate_up, rows_down, rows_gate_up, rows_logits, rows_norm, rows_product, rows_route,
};
use candle_core::{CudaDevice, DType, Tensor};

/// The most rows for which a matrix is read at least as fast as by cuBLAS.
const FEW_ROWS: usize = 8;
/// The most experts of a token: a lane of a warp has one.
const MOST_CHOICES: usize = 32;

/// Sums and normed rows.
pub fn norm(
    y: &Tensor,
    sum: Option<&Tensor>,
    x: &Tensor,
    delta: Option<&Tensor>,
    choices: Option<Choices>,
    (w, eps): (&Tensor, f64),
    cuda: &CudaDevice,
) -> Result<()> {
    let (rows, width) = x.dims2()?;
    ensure!(
        width.is_multiple_of(8) && width <= MOST_NORM_WIDTH,
        "the norm of a step on CUDA takes rows of a multiple of 8 and at most {MOST_NORM_WIDTH} columns, found {width}"
    );
    rows_norm {
        y: output(y)?,
        sum: sum.map(output).transpose()?,
        x: input(x)?,
        delta: optional_input(delta)?,
        experts: optional_input(choices.map(|choices| choices.rows))?,
        weights: optional_input(choices.map(|choices| choices.weights))?,
        w: input(w)?,
        rows,
        width,
        k: choices.map_or(Ok(0), |choices| choices.weights.dim(1))?,
        eps: eps as f32,
    }
    .launch(&cuda.cuda_stream())
}

/// A product of all rows.
pub fn product(
    y: &Tensor,
    x: &Tensor,
    Matrix { w, bias, residual }: Matrix,
    alone: bool,
    cuda: &CudaDevice,
) -> Result<()> {
    let ((rows, inputs), outputs) = (x.dims2()?, w.dim(0)?);
    let wide = y.dtype() == DType::F32;
    if !alone && rows > FEW_ROWS && residual.is_none() && !(wide && bias.is_some()) {
        let operand = |pointer, transposed| Operand {
            pointer,
            transposed,
        };
        let a = operand(pointer(x, DType::BF16)?, false);
        let b = operand(pointer(w, DType::BF16)?, true);
        let c = (pointer(y, y.dtype())?, y.dtype());
        gemm(cuda, [rows, outputs, inputs], a, b, c)?;
        if let Some(bias) = bias {
            linear::add_bias_in_place(y, bias, cuda)?;
        }
        return Ok(());
    }
    ensure!(
        inputs.is_multiple_of(8) && !(wide && residual.is_some()),
        "the product of a step on CUDA takes a multiple of 8 inputs and adds a residual in bf16, found w {:?} and y {:?}",
        w.dims(),
        y.dtype()
    );
    let layout = RowsLayout::product(rows, [inputs, outputs]);
    let RowsLayout {
        version,
        parts,
        split,
        chunk,
        ..
    } = layout;
    let (x, w, bias) = (input(x)?, input(w)?, optional_input(bias)?);
    match wide {
        true => rows_logits {
            y: output(y)?,
            x,
            w,
            bias,
            rows,
            inputs,
            outputs,
            parts,
            split,
            chunk,
            layout,
            version,
        }
        .launch(&cuda.cuda_stream()),
        false => rows_product {
            y: output(y)?,
            x,
            w,
            bias,
            residual: optional_input(residual)?,
            rows,
            inputs,
            outputs,
            parts,
            split,
            chunk,
            layout,
            version,
        }
        .launch(&cuda.cuda_stream()),
    }
}

/// Ids, weights, slots and groups.
pub fn route(routes: &Routes, logits: &Tensor, cuda: &CudaDevice) -> Result<()> {
    let ((tokens, k), experts) = (routes.ids.dims2()?, routes.experts);
    ensure!(
        k <= MOST_CHOICES && experts <= MOST_ROUTED_EXPERTS,
        "the router of a step on CUDA takes at most {MOST_CHOICES} of {MOST_ROUTED_EXPERTS} experts, found {k} of {experts}"
    );
    rows_route {
        ids: output(&routes.ids)?,
        weights: output(&routes.weights)?,
        slots: output(&routes.slots)?,
        groups: output(&routes.groups)?,
        logits: input(logits)?,
        tokens,
        experts,
        k,
        most: rows_a_group(tokens),
        count: routes.groups.dim(0)?,
    }
    .launch(&cuda.cuda_stream())
}

/// The layout of a layer's kernel, which asks for whole words of inputs.
fn layout(layer: Layer, routes: &Routes, gated: bool) -> Result<RowsLayout> {
    let (_, inputs, outputs) = layer.dims()?;
    let storage = match layer.matrices {
        Matrices::Packed { .. } => Storage::Packed,
        Matrices::Dense(_) => Storage::Dense,
    };
    ensure!(
        inputs.is_multiple_of(8),
        "experts of a step on CUDA take a multiple of 8 inputs, found {inputs}"
    );
    let tokens = routes.ids.dim(0)?;
    Ok(RowsLayout::experts(
        tokens,
        [inputs, outputs],
        storage,
        gated,
    ))
}

/// Gates, values and the activation.
pub fn gate_up(
    h: &Tensor,
    x: &Tensor,
    layer: Layer,
    routes: &Routes,
    activation: Activation,
    cuda: &CudaDevice,
) -> Result<()> {
    let limit = swiglu::kernel_limit(activation)?;
    let (_, inputs, outputs) = layer.dims()?;
    let layout = layout(layer, routes, true)?;
    let RowsLayout {
        version,
        parts,
        split,
        chunk,
        ..
    } = layout;
    let (h, x) = (output(h)?, input(x)?);
    let (bias, low) = (optional_input(layer.bias)?, optional_input(layer.low_rank)?);
    let (groups, slots) = (input(&routes.groups)?, input(&routes.slots)?);
    let (k, count) = (routes.ids.dim(1)?, routes.groups.dim(0)?);
    match layer.matrices {
        Matrices::Packed { blocks, scales } => rows_gate_up {
            h,
            x,
            blocks: input(blocks)?,
            scales: input(scales)?,
            bias,
            low,
            groups,
            slots,
            inputs,
            outputs,
            k,
            limit,
            parts,
            split,
            chunk,
            layout,
            count,
            version,
        }
        .launch(&cuda.cuda_stream()),
        Matrices::Dense(w) => rows_dense_gate_up {
            h,
            x,
            w: input(w)?,
            bias,
            low,
            groups,
            slots,
            inputs,
            outputs,
            k,
            limit,
            parts,
            split,
            chunk,
            layout,
            count,
            version,
        }
        .launch(&cuda.cuda_stream()),
    }
}

/// Outputs of each pair.
pub fn down(
    y: &Tensor,
    h: &Tensor,
    layer: Layer,
    routes: &Routes,
    cuda: &CudaDevice,
) -> Result<()> {
    let (_, inputs, outputs) = layer.dims()?;
    let layout = layout(layer, routes, false)?;
    let RowsLayout {
        version,
        parts,
        split,
        chunk,
        ..
    } = layout;
    let (y, h) = (output(y)?, input(h)?);
    let (bias, low) = (optional_input(layer.bias)?, optional_input(layer.low_rank)?);
    let (groups, slots) = (input(&routes.groups)?, input(&routes.slots)?);
    let count = routes.groups.dim(0)?;
    match layer.matrices {
        Matrices::Packed { blocks, scales } => rows_down {
            y,
            h,
            blocks: input(blocks)?,
            scales: input(scales)?,
            bias,
            low,
            groups,
            slots,
            inputs,
            outputs,
            parts,
            split,
            chunk,
            layout,
            count,
            version,
        }
        .launch(&cuda.cuda_stream()),
        Matrices::Dense(w) => rows_dense_down {
            y,
            h,
            w: input(w)?,
            bias,
            low,
            groups,
            slots,
            inputs,
            outputs,
            parts,
            split,
            chunk,
            layout,
            count,
            version,
        }
        .launch(&cuda.cuda_stream()),
    }
}
