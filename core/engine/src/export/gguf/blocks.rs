//! MXFP4 as ggml lays it out: the scale of a block stands before its values, whose two halves share bytes.
//!
//! In a checkpoint byte `j` of a block holds the values `2 j` and `2 j + 1`; in ggml it holds `j` and `j + 16`. Codes and scales mean the
//! same in both, so that nothing is rounded.

/// Bytes of a block.
pub const BYTES: usize = 17;

/// Lays out values and scales, 16 bytes and one for each block, in blocks.
pub fn lay_out(to: &mut [u8], values: &[u8], scales: &[u8]) {
    let (to, values) = (to.as_chunks_mut::<BYTES>().0, values.as_chunks::<16>().0);
    for ((to, values), scale) in to.iter_mut().zip(values).zip(scales) {
        let [to_scale, to @ ..] = to;
        *to_scale = *scale;
        let (first, second) = values.split_at(8);
        for ((to, a), b) in to.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
            *to = [(a & 15) | (b & 15) << 4, (a >> 4) | (b & 0xf0)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::ops::mxfp4;

    /// Read by the formula of ggml, each value is what it was.
    #[test]
    fn no_value_changes() {
        let values: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let scales: Vec<u8> = (0..values.len() / 16).map(|i| (i * 8) as u8).collect();
        let mut blocks = vec![0; scales.len() * BYTES];
        lay_out(&mut blocks, &values, &scales);
        // Twice each value, as ggml has them, with half the scale.
        let codes = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
        let mut found = vec![0f32; scales.len() * 32];
        for (block, found) in blocks.chunks(BYTES).zip(found.chunks_mut(32)) {
            let half = (f64::from(block[0]) - 128.0).exp2();
            for (j, byte) in block[1..].iter().enumerate() {
                let value = |code: u8| (f64::from(codes[usize::from(code)]) * half) as f32;
                found[j] = value(byte & 15);
                found[j + 16] = value(byte >> 4);
            }
        }
        assert_eq!(found, mxfp4::decode(&values, &scales));
    }
}
