//! The matrix of one expert, from one form of a file to another, merged on the way.
//!
//! It is done a few output rows at a time, on this thread alone: so the values stay in the cache from the packed ones to the
//! result, and experts are spread over the cores. Rounding is that of [`Adapter::merged_weight`].

use super::file::{Adapter, Pair};
use crate::ops::mxfp4;
use anyhow::{Result, ensure};
use candle_core::DType;
use half::bf16;

/// Output rows that are done at a time: a line of the cache in bf16.
const ROWS: usize = 32;

/// The update of one expert's matrix.
pub struct ExpertUpdate {
    /// `[r, inputs]`.
    a: Vec<f32>,
    /// `[outputs, r]`.
    b: Vec<f32>,
    r: usize,
    scale: f32,
}

/// The bytes of an expert's matrix in a file.
pub enum ExpertBytes<'a> {
    /// MXFP4, by output rows: blocks and scales.
    Packed(&'a [u8], &'a [u8]),
    /// `[inputs, outputs]`, in f32 or bf16.
    Dense(&'a [u8], DType),
}

/// Room for the bytes of an expert's matrix.
pub enum ExpertRoom<'a> {
    /// MXFP4, by output rows: blocks and scales.
    Packed(&'a mut [u8], &'a mut [u8]),
    /// `[inputs, outputs]`, in f32 or bf16.
    Dense(&'a mut [u8], DType),
    /// `[outputs, inputs]`, in f32 or bf16.
    Rows(&'a mut [u8], DType),
}

/// Sums of squares over a matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Squares {
    /// Of its values, before they are packed.
    pub values: f64,
    /// Of what its update adds.
    pub update: f64,
    /// Of what packing changes.
    pub error: f64,
}

impl std::ops::AddAssign for Squares {
    fn add_assign(&mut self, other: Self) {
        self.values += other.values;
        self.update += other.update;
        self.error += other.error;
    }
}

impl Adapter {
    /// The update of an expert of the matrices `name` (`[experts, inputs, outputs]`), or `None` where none is trained.
    ///
    /// # Errors
    /// The matrices have another shape than the adapter was trained on.
    pub fn expert_update(
        &self,
        name: &str,
        (expert, shape): (usize, [usize; 3]),
    ) -> Result<Option<ExpertUpdate>> {
        let spec = self.list.get(name);
        let Some((spec, pair)) = spec.and_then(|spec| Some((spec, self.pair_of(spec)?))) else {
            return Ok(None);
        };
        let [e, input, output] = shape;
        let r = pair.a.dim(0)? / e.max(1);
        ensure!(
            spec.expert_matrix().is_some()
                && r > 0
                && pair.a.dims() == [e * r, input]
                && pair.b.dims() == [output, e * r],
            "merging {name}: the adapter's pair {:?}, {:?} does not fit the experts {shape:?}",
            pair.a.dims(),
            pair.b.dims()
        );
        let scale = self.scale(spec);
        ExpertUpdate::new(&pair, (expert, e, r), scale).map(Some)
    }
}

impl ExpertUpdate {
    /// Takes the update of one expert out of the pair of `e` of them, of rank `r` each.
    fn new(pair: &Pair, (expert, e, r): (usize, usize, usize), scale: f64) -> Result<Self> {
        let outputs = pair.b.dim(0)?;
        let b = pair.b.reshape((outputs, r, e))?.narrow(2, expert, 1)?;
        let a = pair.a.narrow(0, expert * r, r)?;
        Ok(Self {
            a: a.flatten_all()?.to_vec1()?,
            b: b.flatten_all()?.to_vec1()?,
            r,
            scale: scale as f32,
        })
    }

    /// Whether it changes nothing, as that of an expert to which no token was sent.
    pub fn is_zero(&self) -> bool {
        let zero = |values: &[f32]| values.iter().all(|v| *v == 0.0);
        zero(&self.b) || zero(&self.a)
    }

    /// Adds it to output rows of a matrix from row `first` on, whose values have type `dtype`, which gets the sum, too.
    fn add(&self, first: usize, w: &mut [f32], product: &mut [f32], dtype: DType) {
        let inputs = self.a.len() / self.r;
        let rows = w.len() / inputs;
        let b = &self.b[first * self.r..][..rows * self.r];
        multiply(b, &self.a, (rows, self.r, inputs), product);
        match dtype {
            DType::BF16 => add_rounded(w, product, self.scale, to_bf16),
            _ => add_rounded(w, product, self.scale, |value| value),
        }
    }
}

/// The product of `[m, k]` and `[k, n]`, all by rows, on this thread alone: the one that a product of tensors calls too, which
/// asks the system for its number of cores each time and spreads over them.
fn multiply(left: &[f32], right: &[f32], (m, k, n): (usize, usize, usize), to: &mut [f32]) {
    assert!(left.len() == m * k && right.len() == k * n && to.len() == m * n);
    let [k_stride, n_stride] = [k as isize, n as isize];
    // SAFETY: the lengths of the three slices, which do not overlap, are those of the sizes and strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr(),
            1,
            n_stride,
            false,
            left.as_ptr(),
            1,
            k_stride,
            right.as_ptr(),
            1,
            n_stride,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn add_rounded(w: &mut [f32], product: &[f32], scale: f32, round: impl Fn(f32) -> f32) {
    for (w, product) in w.iter_mut().zip(product) {
        // The zero gives a zero the sign that it has where tensors are multiplied by a number.
        let delta = round(product * scale + 0.0);
        *w = round(*w + delta);
    }
}

/// The sum of the squares of differences.
fn squares_apart(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let parts = a
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(b.as_chunks::<LANES>().0);
    for (a, b) in parts {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (a - b) * (a - b);
        }
    }
    let rest = a.len() / LANES * LANES;
    let rest = a[rest..].iter().zip(&b[rest..]);
    let rest: f64 = rest.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    sums.into_iter().map(f64::from).sum::<f64>() + rest
}

/// Converts the matrix of one expert, and adds its update.
///
/// # Errors
/// A length does not fit the shape, or a value cannot be packed.
pub fn convert_expert(
    from: &ExpertBytes,
    (inputs, outputs): (usize, usize),
    update: Option<&ExpertUpdate>,
    to: &mut ExpertRoom,
) -> Result<Squares> {
    let groups = inputs / 32;
    let fits = |blocks: &[u8], scales: &[u8]| {
        inputs.is_multiple_of(32)
            && blocks.len() == outputs * groups * 16
            && scales.len() == outputs * groups
    };
    let dense = |bytes: &[u8], dtype: DType| {
        matches!(dtype, DType::BF16 | DType::F32)
            && bytes.len() == inputs * outputs * dtype.size_in_bytes()
    };
    let good = match from {
        ExpertBytes::Packed(blocks, scales) => fits(blocks, scales),
        ExpertBytes::Dense(bytes, dtype) => dense(bytes, *dtype),
    } && match to {
        ExpertRoom::Packed(blocks, scales) => fits(blocks, scales),
        ExpertRoom::Dense(bytes, dtype) | ExpertRoom::Rows(bytes, dtype) => dense(bytes, *dtype),
    };
    let fitting = |u: &ExpertUpdate| u.a.len() == u.r * inputs && u.b.len() == u.r * outputs;
    let good = good && update.is_none_or(fitting);
    ensure!(
        good,
        "an expert's bytes do not fit {inputs} inputs and {outputs} outputs"
    );
    let dtype = match from {
        ExpertBytes::Packed(..) => DType::BF16,
        ExpertBytes::Dense(_, dtype) => *dtype,
    };
    let mut sums = Squares::default();
    let zeros = vec![0.0; inputs];
    let [mut tile, mut other, mut product] = [(); 3].map(|()| vec![0.0; ROWS * inputs]);
    for first in (0..outputs).step_by(ROWS) {
        let rows = first..outputs.min(first + ROWS);
        let (w, other) = (
            &mut tile[..rows.len() * inputs],
            &mut other[..rows.len() * inputs],
        );
        let (blocks, scales) = (
            rows.start * groups * 16..rows.end * groups * 16,
            rows.start * groups..rows.end * groups,
        );
        match from {
            ExpertBytes::Packed(b, s) => {
                mxfp4::decode_into(w, &b[blocks.clone()], &s[scales.clone()]);
                // Exact, but for values beyond those of bf16.
                w.iter_mut().for_each(|v| *v = to_bf16(*v));
            }
            ExpertBytes::Dense(bytes, DType::F32) => {
                gather(bytes, (outputs, first), w, f32::from_le_bytes);
            }
            ExpertBytes::Dense(bytes, _) => {
                gather(bytes, (outputs, first), w, |b| {
                    bf16::from_le_bytes(b).to_f32()
                });
            }
        }
        if let Some(update) = update {
            other.copy_from_slice(w);
            update.add(first, w, &mut product[..rows.len() * inputs], dtype);
        }
        match to {
            ExpertRoom::Packed(b, s) => {
                if update.is_some() {
                    sums.update += squares_apart(w, other);
                }
                let (b, s) = (&mut b[blocks], &mut s[scales]);
                mxfp4::encode_into(b, s, w)?;
                mxfp4::decode_into(other, b, s);
                sums.error += squares_apart(w, other);
                let rows = w.chunks_exact(inputs);
                sums.values += rows.map(|row| squares_apart(row, &zeros)).sum::<f64>();
            }
            ExpertRoom::Dense(bytes, DType::F32) => {
                scatter(w, (outputs, first), bytes, f32::to_le_bytes);
            }
            ExpertRoom::Dense(bytes, _) => {
                scatter(w, (outputs, first), bytes, |v| {
                    bf16::from_f32(v).to_le_bytes()
                });
            }
            ExpertRoom::Rows(bytes, DType::F32) => {
                lay(w, &mut bytes[first * inputs * 4..], f32::to_le_bytes);
            }
            ExpertRoom::Rows(bytes, _) => {
                lay(w, &mut bytes[first * inputs * 2..], |v| {
                    bf16::from_f32(v).to_le_bytes()
                });
            }
        }
    }
    Ok(sums)
}

/// Takes output rows from the bytes of `[inputs, outputs]`.
fn gather<const WIDTH: usize>(
    bytes: &[u8],
    (outputs, first): (usize, usize),
    rows: &mut [f32],
    value: impl Fn([u8; WIDTH]) -> f32,
) {
    let elements = bytes.as_chunks::<WIDTH>().0;
    let inputs = elements.len() / outputs;
    for (input, elements) in elements.chunks_exact(outputs).enumerate() {
        let column = rows.iter_mut().skip(input).step_by(inputs);
        for (row, element) in column.zip(&elements[first..]) {
            *row = value(*element);
        }
    }
}

/// Puts output rows into the bytes of `[inputs, outputs]`.
fn scatter<const WIDTH: usize>(
    rows: &[f32],
    (outputs, first): (usize, usize),
    bytes: &mut [u8],
    element: impl Fn(f32) -> [u8; WIDTH],
) {
    let elements = bytes.as_chunks_mut::<WIDTH>().0;
    let inputs = elements.len() / outputs;
    for (input, elements) in elements.chunks_exact_mut(outputs).enumerate() {
        let column = rows.iter().skip(input).step_by(inputs);
        for (row, to) in column.zip(&mut elements[first..]) {
            *to = element(*row);
        }
    }
}

/// Puts output rows at the beginning of bytes, as they are.
fn lay<const WIDTH: usize>(rows: &[f32], bytes: &mut [u8], element: impl Fn(f32) -> [u8; WIDTH]) {
    for (to, value) in bytes.as_chunks_mut::<WIDTH>().0.iter_mut().zip(rows) {
        *to = element(*value);
    }
}

/// The nearest value of bf16, ties to even, as [`bf16::from_f32`] rounds but without a branch: which way a value is rounded cannot
/// be predicted.
fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let rounded = if value.is_nan() {
        bits | 0x40_0000
    } else {
        rounded
    };
    f32::from_bits(rounded & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::merge::merge_experts;
    use crate::ops::testing::random;
    use candle_core::Tensor;

    const SCALE: f64 = 1.7;

    fn bytes(t: &Tensor) -> Vec<u8> {
        let flat = t.flatten_all().unwrap();
        match t.dtype() {
            DType::U8 => flat.to_vec1::<u8>().unwrap(),
            DType::F32 => {
                let values = flat.to_vec1::<f32>().unwrap();
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            _ => {
                let values = flat.to_vec1::<bf16>().unwrap();
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        }
    }

    fn part(bytes: &[u8], expert: usize, experts: usize) -> &[u8] {
        let size = bytes.len() / experts;
        &bytes[expert * size..][..size]
    }

    /// The bits of the plain formula over whole tensors, for every form, type, rank, and shapes that fill no tile.
    #[test]
    fn an_expert_by_rows_has_the_bits_of_the_plain_formula() -> Result<()> {
        let e = 3;
        for (input, output, r) in [
            (64, 96, 1),
            (32, 33, 2),
            (96, 71, 3),
            (64, 40, 8),
            (288, 130, 16),
            (64, 65, 300),
        ] {
            let dense = random(1, &[e, output, input]);
            let (blocks, scales) = mxfp4::quantize(&dense)?;
            let values = mxfp4::dequantize(&blocks, &scales)?;
            let transposed = values.transpose(1, 2)?.contiguous()?;
            let a = (random(2, &[e * r, input]) * 0.1)?;
            let b = (random(3, &[output, e * r]) * 0.1)?;
            let pair = Pair { a: &a, b: &b };
            for dtype in [DType::BF16, DType::F32] {
                let base = transposed.to_dtype(dtype)?;
                let merged = merge_experts(&base, &pair, SCALE)?;
                let rows = merged.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous()?;
                let (packed, powers) = mxfp4::quantize(&rows)?;
                let plain = [bytes(&base), bytes(&merged), bytes(&packed), bytes(&powers)];
                let (blocks, scales) = (bytes(&blocks), bytes(&scales));
                for expert in 0..e {
                    let part = |bytes| part(bytes, expert, e);
                    let update = ExpertUpdate::new(&pair, (expert, e, r), SCALE)?;
                    let mut forms = vec![ExpertBytes::Dense(part(&plain[0]), dtype)];
                    if dtype == DType::BF16 {
                        forms.push(ExpertBytes::Packed(part(&blocks), part(&scales)));
                    }
                    for form in forms {
                        let mut found = vec![0; part(&plain[1]).len()];
                        let mut room = ExpertRoom::Dense(&mut found, dtype);
                        convert_expert(&form, (input, output), Some(&update), &mut room)?;
                        assert!(found == part(&plain[1]), "{input} {output} {r} {dtype:?}");
                        for to in [DType::BF16, DType::F32] {
                            let rows = merged.get(expert)?.t()?.contiguous()?.to_dtype(to)?;
                            let mut found = vec![0; rows.elem_count() * to.size_in_bytes()];
                            let mut room = ExpertRoom::Rows(&mut found, to);
                            convert_expert(&form, (input, output), Some(&update), &mut room)?;
                            assert!(found == bytes(&rows), "{input} {output} {r} {to:?}");
                        }

                        let mut b = vec![0; part(&plain[2]).len()];
                        let mut s = vec![0; part(&plain[3]).len()];
                        let mut room = ExpertRoom::Packed(&mut b, &mut s);
                        let sums =
                            convert_expert(&form, (input, output), Some(&update), &mut room)?;
                        assert!(b == part(&plain[2]) && s == part(&plain[3]), "{input} {r}");
                        assert!(sums.error > 0.0 && sums.error < 0.05 * sums.values);
                        assert!(sums.update > 0.0);
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn values_round_as_elsewhere() {
        let parts = [0, 1, 0x7fff, 0x8000, 0x8001, 0xc000, 0xffff];
        for bits in (0..=u16::MAX).flat_map(|high| parts.map(|low| u32::from(high) << 16 | low)) {
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value).to_f32();
            assert_eq!(to_bf16(value).to_bits(), expected.to_bits(), "{bits:x}");
        }
    }

    #[test]
    fn what_is_packed_already_is_packed_without_an_error() -> Result<()> {
        let (blocks, scales) = mxfp4::quantize(&random(5, &[1, 48, 64]))?;
        let (blocks, scales) = (bytes(&blocks), bytes(&scales));
        let (mut b, mut s) = (vec![0; blocks.len()], vec![0; scales.len()]);
        let from = ExpertBytes::Packed(&blocks, &scales);
        let sums = convert_expert(
            &from,
            (64, 48),
            None,
            &mut ExpertRoom::Packed(&mut b, &mut s),
        )?;
        assert!(sums.error == 0.0 && sums.values > 0.0 && sums.update == 0.0);
        assert!(mxfp4::decode(&b, &s) == mxfp4::decode(&blocks, &scales));
        let mut small = [0; 5];
        let room = &mut ExpertRoom::Dense(&mut small, DType::BF16);
        let error = convert_expert(&from, (64, 48), None, room).unwrap_err();
        assert!(
            error.to_string().contains("64 inputs and 48 outputs"),
            "{error}"
        );
        let zero = ExpertUpdate {
            a: vec![1.0; 2 * 64],
            b: vec![0.0; 48 * 2],
            r: 2,
            scale: 1.0,
        };
        assert!(zero.is_zero());
        Ok(())
    }
}
