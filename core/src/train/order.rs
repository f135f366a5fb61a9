//! The order of examples in an epoch: a function of the seed and the epoch alone, so that a resumed
//! run needs no saved generator.

use crate::ops::philox;

/// Indices of `count` examples in the order of this epoch.
pub fn order(count: usize, data_seed: u64, epoch: usize, shuffle: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if shuffle {
        for i in (1..count).rev() {
            let [low, high, ..] = philox::block(data_seed, epoch as u64, i as u64);
            let word = u64::from(high) << 32 | u64::from(low);
            order.swap(i, ((u128::from(word) * (i as u128 + 1)) >> 64) as usize);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_once_in_another_order_each_epoch() {
        let (a, b) = (order(100, 42, 0, true), order(100, 42, 1, true));
        assert_ne!(a, b);
        assert_eq!(a, order(100, 42, 0, true));
        assert_ne!(a, order(100, 43, 0, true));
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, order(100, 42, 0, false));
    }
}
