//! See [`crate::ops::lora`]: narrow products, up to a rank of 64, have their own kernels.

use super::launch::{Arg, Grid, b16, empty, f32, int, launch, long, u32};
use crate::ops::Groups;
use crate::ops::lora::{PackedRange, Strides};
use anyhow::{Result, ensure};
use apus_kernels::{LORA, REDUCE};
use candle_core::{CudaDevice, DType, Tensor};

const DOWN: [&str; 8] = [
    "lora_down_1",
    "lora_down_2",
    "lora_down_3",
    "lora_down_4",
    "lora_down_5",
    "lora_down_6",
    "lora_down_7",
    "lora_down_8",
];
const GRADIENT: [&str; 8] = [
    "lora_gradient_1",
    "lora_gradient_2",
    "lora_gradient_3",
    "lora_gradient_4",
    "lora_gradient_5",
    "lora_gradient_6",
    "lora_gradient_7",
    "lora_gradient_8",
];

/// Whether kernels take this padded rank and these widths.
pub fn fits(pitch: usize, width: usize) -> bool {
    pitch.is_multiple_of(8) && (8..=64).contains(&pitch) && width.is_multiple_of(8)
}

/// The rows and threads of a block of `lora_down`.
const DOWN_ROWS: usize = 32;
const DOWN_THREADS: u32 = 256;

/// `x a^T`.
pub fn down(x: &Tensor, a: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let (count, pitch, _) = a.dims3()?;
    run_down(x, a, (u32(groups.offsets())?, count), pitch, cuda)
}

/// `x w^T` for a matrix `[O, I]` of few outputs.
pub fn narrow(x: &Tensor, w: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (o, _) = w.dims2()?;
    run_down(x, &w.contiguous()?, (Arg::Pointer(0), 1), o, cuda)
}

/// Rows `[N, K]` to `[N, pitch]`, with the offsets of `count` groups or none.
fn run_down(
    x: &Tensor,
    a: &Tensor,
    (offsets, count): (Arg, usize),
    pitch: usize,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (n, k) = x.dims2()?;
    let x = x.contiguous()?;
    let z = empty((n, pitch), DType::BF16, cuda)?;
    let args = [
        b16(&z)?,
        b16(&x)?,
        b16(a)?,
        offsets,
        int(count)?,
        int(n)?,
        int(k)?,
    ];
    let grid = Grid::new([n.div_ceil(DOWN_ROWS) + count, 1, 1], DOWN_THREADS);
    launch(cuda, &LORA, DOWN[pitch / 8 - 1], grid, &args)?;
    Ok(z)
}

/// The number of blocks that keeps a card busy while they read.
const BUSY: usize = 512;

/// Sums over rows, in the layout that `strides` describe.
pub fn gradient(
    x: &Tensor,
    z: &Tensor,
    groups: &Groups,
    rank: usize,
    strides: Strides,
    scale: f64,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let ((n, width), (_, pitch)) = (x.dims2()?, z.dims2()?);
    let (x, z, count) = (x.contiguous()?, z.contiguous()?, groups.count());
    let blocks = width.div_ceil(64) * count;
    let splits = BUSY.div_ceil(blocks).clamp(1, (n / count / 256).max(1));
    let numbers = count * width * rank;
    let parts = empty((splits, numbers), DType::F32, cuda)?;
    let args = [
        f32(&parts)?,
        b16(&x)?,
        b16(&z)?,
        u32(groups.offsets())?,
        int(width)?,
        int(rank)?,
        long(strides.group),
        long(strides.column),
        long(strides.rank),
        long(numbers),
        Arg::F32(scale as f32),
    ];
    let grid = Grid::new([width.div_ceil(64), count, splits], 256);
    launch(cuda, &LORA, GRADIENT[pitch / 8 - 1], grid, &args)?;
    if splits == 1 {
        return Ok(parts.squeeze(0)?);
    }
    let out = empty(numbers, DType::F32, cuda)?;
    let args = [f32(&out)?, f32(&parts)?, int(splits)?, int(numbers)?];
    let grid = Grid::new([numbers.div_ceil(256), 1, 1], 256);
    launch(cuda, &REDUCE, "sum_rows", grid, &args)?;
    Ok(out)
}

/// Writes A f32 `[G, rank, K]` into its rows of `out`.
pub fn pack_a(out: &Tensor, a: &Tensor, range: PackedRange, cuda: &CudaDevice) -> Result<()> {
    let (count, pitch, k) = out.dims3()?;
    let a = a.contiguous()?;
    ensure!(
        a.elem_count() == count * range.rank * k,
        "lora: A {:?} for {:?}",
        a.dims(),
        out.dims()
    );
    let args = [
        b16(out)?,
        f32(&a)?,
        int(count)?,
        int(range.rank)?,
        int(range.a_rows)?,
        int(k)?,
        int(pitch)?,
        int(range.first_rank)?,
    ];
    let grid = Grid::new([(count * range.a_rows * k).div_ceil(256), 1, 1], 256);
    launch(cuda, &LORA, "lora_pack_a", grid, &args)
}

/// Writes B f32 `[W, rank, G]` times `scale` into its outputs of B `[G, O, P]` and of its transpose `[G, P, O]`; zeros without B.
pub fn pack_b(
    [all_b, all_b_transposed]: [&Tensor; 2],
    b: Option<&Tensor>,
    scale: f64,
    range: PackedRange,
    cuda: &CudaDevice,
) -> Result<()> {
    let (count, all, pitch) = all_b.dims3()?;
    let b = b.map(Tensor::contiguous).transpose()?;
    let elements = b.as_ref().map_or(0, Tensor::elem_count);
    ensure!(
        elements == count * range.rank * range.outputs,
        "lora: B of {elements} numbers for {range:?}"
    );
    let args = [
        b16(all_b)?,
        b16(all_b_transposed)?,
        b.as_ref().map_or(Ok(Arg::Pointer(0)), f32)?,
        Arg::F32(scale as f32),
        int(count)?,
        int(range.rank)?,
        int(range.outputs)?,
        int(pitch)?,
        int(range.first_rank)?,
        int(all)?,
        int(range.first_output)?,
    ];
    let grid = Grid::new([(count * range.outputs * pitch).div_ceil(256), 1, 1], 256);
    launch(cuda, &LORA, "lora_pack_b", grid, &args)
}

/// Factors of `count` groups whose content is not set: `[G, P, I]`, `[G, O, P]`, `[G, P, O]`.
pub fn empty_factors(
    [count, pitch, inputs, outputs]: [usize; 4],
    cuda: &CudaDevice,
) -> Result<[Tensor; 3]> {
    Ok([
        empty((count, pitch, inputs), DType::BF16, cuda)?,
        empty((count, outputs, pitch), DType::BF16, cuda)?,
        empty((count, pitch, outputs), DType::BF16, cuda)?,
    ])
}
