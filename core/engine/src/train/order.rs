//! The order of examples in an epoch: a function of the seed and the epoch alone, so that a resumed
//! run needs no saved generator.

use apus_model::ops::philox;
use std::cmp::Reverse;

/// Steps whose examples are sorted by length together, where they are grouped by it.
const SORTED_STEPS: usize = 50;

/// How examples are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordering {
    /// Seed of the data.
    pub data_seed: u64,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Group examples of similar length: the examples of a step, `Some(n)` of them, are neighbours
    /// in length.
    pub by_length: Option<usize>,
}

impl Ordering {
    /// Indices of the examples, which have these lengths, in the order of this epoch.
    pub fn epoch(&self, epoch: usize, lengths: &[usize]) -> Vec<usize> {
        let mut order = order(lengths.len(), self.data_seed, epoch, self.shuffle);
        if let Some(step) = self.by_length.filter(|step| *step > 0) {
            group(&mut order, step, lengths);
        }
        order
    }
}

/// transformers' `LengthGroupedSampler`: chunks of many steps are sorted, longest first, and the
/// longest example of all comes at the very beginning, so that a run that is going to be out of
/// memory is so at once.
fn group(order: &mut [usize], step: usize, lengths: &[usize]) {
    let steps = (order.len() / (step * 4)).clamp(1, SORTED_STEPS);
    for chunk in order.chunks_mut(steps * step) {
        chunk.sort_by_key(|&example| Reverse(lengths[example]));
    }
    let heads = (0..order.len()).step_by(steps * step);
    let longest = heads.max_by_key(|&at| (lengths[order[at]], Reverse(at)));
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
}

/// Indices of `count` examples in the order of this epoch.
fn order(count: usize, data_seed: u64, epoch: usize, shuffle: bool) -> Vec<usize> {
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

    #[test]
    fn examples_of_a_step_are_of_similar_length() {
        let lengths: Vec<usize> = (0..1000).map(|i| 1 + i * 7919 % 1000).collect();
        let spread = |by_length| {
            let ordering = Ordering {
                data_seed: 42,
                shuffle: true,
                by_length,
            };
            let order = ordering.epoch(0, &lengths);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
            if by_length.is_some() {
                assert_eq!(lengths[order[0]], 1000);
                assert_ne!(order, ordering.epoch(1, &lengths));
            }
            let steps = order.chunks(8).skip(1).map(|step| {
                let of = step.iter().map(|&i| lengths[i]);
                of.clone().max().unwrap_or(0) - of.min().unwrap_or(0)
            });
            steps.sum::<usize>()
        };
        assert!(10 * spread(Some(8)) < spread(None));
    }
}
