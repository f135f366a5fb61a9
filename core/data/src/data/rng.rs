//! Random orders that depend on nothing but a seed. The shuffle is a Fisher-Yates of our own on ChaCha8, so
//! that no version of a library changes the order of a dataset.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// A source of random orders.
pub struct Shuffle(ChaCha8Rng);

impl Shuffle {
    /// Makes the source of a seed and a stream; the streams of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Draws a number below `n`, each with the same probability (Lemire 2019, with rejection).
    pub fn below(&mut self, n: u64) -> u64 {
        let reject = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.0.next_u64()) * u128::from(n);
            if wide as u64 >= reject {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Draws a number of 0 or more and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }

    /// The numbers below `n` in a random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_and_reproducible() {
        let order = Shuffle::new(42, 0).permutation(100);
        assert_eq!(order, Shuffle::new(42, 0).permutation(100));
        assert_ne!(order, Shuffle::new(42, 1).permutation(100));
        assert_ne!(order, Shuffle::new(43, 0).permutation(100));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn every_order_of_three_is_as_likely() {
        let mut shuffle = Shuffle::new(1, 0);
        let mut counts = std::collections::BTreeMap::<Vec<usize>, usize>::new();
        for _ in 0..6000 {
            *counts.entry(shuffle.permutation(3)).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|n| (850..1150).contains(n)),
            "{counts:?}"
        );
    }
}
