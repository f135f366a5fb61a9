//! Random numbers that follow from a seed and a place alone, never from what was drawn before on another thread or in another
//! run: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// The four random words of a block of a stream.
///
/// The key is the seed (low word, high word); the counter is (block low, block high, stream low, stream high).
#[doc(hidden)]
#[inline]
pub fn philox(seed: u64, stream: u64, block: u64) -> [u32; 4] {
    let mut counter = [
        block as u32,
        (block >> 32) as u32,
        stream as u32,
        (stream >> 32) as u32,
    ];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

/// Where the blocks of single draws begin: beyond those of orders.
const DRAWS: u64 = 1 << 63;
/// Blocks of an order: a set of rows has fewer.
const OF_AN_ORDER: u64 = 1 << 40;

/// Random numbers of a stream: the same ones for the same seed and number, on every machine.
///
/// ```
/// use apus_sdk::Random;
///
/// let draw = |stream| {
///     let mut random = Random::new(42, stream);
///     let mut order = [0, 1, 2, 3, 4, 5];
///     random.shuffle(&mut order);
///     (order, random.unit(), random.below(10))
/// };
/// assert_eq!(draw(0), draw(0));
/// assert_ne!(draw(0), draw(1));
/// ```
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    stream: u64,
    orders: u64,
    draws: u64,
}

impl Random {
    /// The stream of this number.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self {
            seed,
            stream,
            orders: 0,
            draws: 0,
        }
    }

    /// Puts items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        let first = self.orders * OF_AN_ORDER;
        self.orders += 1;
        for i in (1..items.len()).rev() {
            let word = word(philox(self.seed, self.stream, first + i as u64));
            items.swap(i, scaled(word, i + 1));
        }
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number from 0 to below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let word = self.next();
        scaled(word, end)
    }

    /// The place of one of these weights, each by its share of their sum. `None` if no weight is above 0.
    pub fn weighted(&mut self, weights: &[f64]) -> Option<usize> {
        let is_some = |weight: &f64| weight.is_finite() && *weight > 0.0;
        let sum: f64 = weights.iter().filter(|weight| is_some(weight)).sum();
        let mut left = self.unit() * sum;
        let mut last = None;
        for (at, weight) in weights.iter().enumerate().filter(|(_, one)| is_some(one)) {
            last = Some(at);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    fn next(&mut self) -> u64 {
        let word = word(philox(self.seed, self.stream, DRAWS + self.draws));
        self.draws += 1;
        word
    }
}

/// 64 bits of a block.
fn word([low, high, ..]: [u32; 4]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A word as a number below `end`.
fn scaled(word: u64, end: usize) -> usize {
    ((u128::from(word) * end as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(
            philox(0, 0, 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox(u64::MAX, u64::MAX, u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                0x299f_31d0_a409_3822,
                0x0370_7344_1319_8a2e,
                0x85a3_08d3_243f_6a88
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn orders_are_permutations_and_one_after_another_differ() {
        let mut random = Random::new(42, 3);
        let mut orders: Vec<Vec<usize>> = Vec::new();
        for _ in 0..3 {
            let mut order: Vec<usize> = (0..100).collect();
            random.shuffle(&mut order);
            assert!(!orders.contains(&order));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
            orders.push(order);
        }
    }

    #[test]
    fn draws_are_even_and_weighted_ones_by_their_weights() {
        let mut random = Random::new(1, 0);
        let n = 10_000;
        let mean = (0..n).map(|_| random.unit()).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mut counts = [0; 4];
        for _ in 0..n {
            counts[random.weighted(&[1.0, 0.0, 3.0, f64::NAN]).unwrap()] += 1;
        }
        assert_eq!((counts[1], counts[3]), (0, 0));
        assert!((counts[2] as f64 / f64::from(n) - 0.75).abs() < 0.03);
        assert_eq!(random.weighted(&[0.0]), None);
        assert_eq!(random.below(0), 0);
        assert!((0..n).all(|_| random.below(3) < 3));
    }
}
