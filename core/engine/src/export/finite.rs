//! Checks that tensors contain no NaN and no infinity before they are written.

use rayon::prelude::*;
use safetensors::Dtype;

/// How many bytes a thread checks at a time: a multiple of the size of every element.
const PART: usize = 1 << 20;

/// Counts the elements in these little-endian bytes that are NaN or infinite: those whose exponent has all bits set.
pub fn bad_elements(bytes: &[u8], dtype: Dtype) -> usize {
    match dtype {
        Dtype::BF16 => count(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        Dtype::F16 => count(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        Dtype::F32 => count(bytes, |b| {
            u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000
        }),
        _ => 0,
    }
}

fn count<const WIDTH: usize>(bytes: &[u8], bad: impl Fn([u8; WIDTH]) -> bool + Sync) -> usize {
    let parts = bytes.par_chunks(PART);
    parts
        .map(|part| part.as_chunks().0.iter().filter(|b| bad(**b)).count())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_pattern_of_sixteen_bits() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let brain = usize::from(!bf16::from_bits(bits).is_finite());
            let half = usize::from(!f16::from_bits(bits).is_finite());
            assert_eq!(bad_elements(&bytes, Dtype::BF16), brain, "{bits:x}");
            assert_eq!(bad_elements(&bytes, Dtype::F16), half, "{bits:x}");
        }
        assert_eq!(bad_elements(&[0xff; 8], Dtype::U8), 0);
    }

    #[test]
    fn among_many() {
        let mut values = vec![f32::MAX; PART];
        for (at, bad) in [
            (0, f32::NAN),
            (PART / 4, f32::INFINITY),
            (PART - 1, f32::NEG_INFINITY),
        ] {
            values[at] = bad;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(bad_elements(&bytes, Dtype::F32), 3);
    }
}
