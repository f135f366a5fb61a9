//! Selects the samples that are shown.

use apus_data::data::{Dataset, rng::Shuffle};

/// The stream of the data seed for this selection.
const SHOWN: u64 = 16;

/// The indices of `count` samples drawn by the seed, in the order of the data, followed by the longest sample. None
/// if `count` is 0.
pub fn select(dataset: &Dataset, count: usize, seed: u64) -> Vec<usize> {
    let samples = &dataset.samples;
    if count == 0 {
        return Vec::new();
    }
    let mut shown = Shuffle::new(seed, SHOWN).permutation(samples.len());
    shown.truncate(count);
    shown.sort_unstable();
    let longest = (0..samples.len()).rev().max_by_key(|&i| samples[i].len());
    shown.extend(longest.filter(|longest| !shown.contains(longest)));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_data::chat::Encoded;

    #[test]
    fn a_few_and_the_longest() {
        let sample = |length: usize| Encoded {
            input_ids: vec![1; length],
            ..Encoded::default()
        };
        let dataset = Dataset {
            samples: [3, 9, 4, 9, 1].map(sample).into(),
            ..Dataset::default()
        };
        for seed in 0..10 {
            let shown = select(&dataset, 2, seed);
            assert!(
                shown.contains(&1) && (2..=3).contains(&shown.len()),
                "{shown:?}"
            );
            assert_eq!(shown, select(&dataset, 2, seed));
        }
        assert_eq!(select(&dataset, 9, 0), [0, 1, 2, 3, 4]);
        assert!(select(&dataset, 0, 0).is_empty());
    }
}
