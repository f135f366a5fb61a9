//! Counter-based random numbers: the same on the CPU and on CUDA, in any order, on any thread.
//!
//! Philox4x32-10, which the SDK has too, since samplers draw by it. Element `i` of a fill takes word `i % 4` of block `i / 4`. Column `c` of a token takes word `c % 4` of the counter
//! (`c / 4`, place in its example, stream, example).

use super::seq::TokenKey;

/// The four random words of a block, given a seed, a stream and a block.
pub use apus_sdk::private::philox as block;

/// Computes the words of the columns `4 block` to `4 block + 3` of a token, which follow from where it stands in its step and
/// not from the batch that it is in.
pub fn token_block(seed: u64, stream: u32, token: TokenKey, block: u32) -> [u32; 4] {
    let stream = u64::from(stream) | u64::from(token.example) << 32;
    self::block(
        seed,
        stream,
        u64::from(block) | u64::from(token.place) << 32,
    )
}

/// Turns a word into a number in `[0, 1)` with 24 bits.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Turns two words into two standard normal numbers (Box and Muller), in f64.
pub fn normals(a: u32, b: u32) -> [f64; 2] {
    // In (0, 1], so that the logarithm is finite.
    let u = (f64::from(a >> 8) + 1.0) / f64::from(1 << 24);
    let radius = (-2.0 * u.ln()).sqrt();
    let (sine, cosine) = (std::f64::consts::TAU * f64::from(b >> 8) / f64::from(1 << 24)).sin_cos();
    [radius * cosine, radius * sine]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_normal_numbers_of_a_stream() {
        let (first, second) = (block(42, 7, 0), block(42, 7, 1));
        assert_eq!(first, [0x67ee_6f2c, 0xe554_10cc, 0x6c7e_ca35, 0x5573_98d3]);
        assert_eq!(second[0], 0xe5dd_e940);
        let z = [normals(first[0], first[1]), normals(first[2], first[3])].concat();
        let expected = [1.065_150_6, -0.817_525, -0.658_45, 1.132_865_9];
        for (z, expected) in z.into_iter().zip(expected) {
            assert!((z - expected).abs() < 1e-6, "{z} {expected}");
        }
        assert!((unit(first[0]) - 0.405_981_96).abs() < 1e-7);
    }
}
