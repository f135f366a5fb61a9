//! Random numbers that are a function of seed, stream and place.

/// The mixing function of SplitMix64 (Steele, Lea & Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Uniform in 0 to below 1.
pub fn uniform(seed: u64, stream: u64, place: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let start = mixed(mixed(seed.wrapping_add(GOLDEN)) ^ stream.wrapping_mul(GOLDEN));
    let bits = mixed(start.wrapping_add(place.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Normal with mean 0 and standard deviation 1, by Box and Muller.
pub fn normal(seed: u64, stream: u64, place: u64) -> f64 {
    let (radius, turn) = (
        uniform(seed, stream, 2 * place),
        uniform(seed, stream, 2 * place + 1),
    );
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
}
