//! Which rank computes which examples of a step, and in which micro-batches.
//!
//! A step takes as long as its slowest rank. Examples therefore go by their tokens, the longest first, each to the rank that has
//! the fewest so far, whatever micro-batch one process would have made of them: losses and gradients are sums over
//! tokens, and the random numbers of an example follow from its place in the step. What is a mean over a micro-batch, as the
//! router's auxiliary loss, needs micro-batches as they are, which then go to the ranks as a whole.

use std::cmp::Reverse;

/// The micro-batches of a rank, each a list of places of examples in the step, ascending.
pub type Share = Vec<Vec<usize>>;

/// What a micro-batch may hold that is made of other examples than one process would take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Examples (`per_device_train_batch_size`).
    pub examples: usize,
    /// Tokens that the memory plan has room for. The largest micro-batch of the step is always allowed.
    pub tokens: usize,
}

/// The share of each rank. `groups` has the tokens of the examples of each micro-batch that one process would make; without a
/// limit these stay whole, and they do where nothing is gained. Ties go to the lower rank, so that all agree.
pub fn share(groups: &[Vec<usize>], ranks: usize, limit: Option<Limit>) -> Vec<Share> {
    let tokens = groups.concat();
    let whole = whole(groups, ranks);
    let other = limit.and_then(|limit| regrouped(groups, ranks, limit));
    match other {
        Some(other) if longest(&other, &tokens) < longest(&whole, &tokens) => other,
        _ => whole,
    }
}

/// Tokens of the rank that has the most.
fn longest(shares: &[Share], tokens: &[usize]) -> usize {
    let of_share = |share: &Share| share.iter().flatten().map(|&at| tokens[at]).sum();
    shares.iter().map(of_share).max().unwrap_or(0)
}

/// Micro-batches as they are, spread over the ranks.
fn whole(groups: &[Vec<usize>], ranks: usize) -> Vec<Share> {
    let sums: Vec<usize> = groups.iter().map(|group| group.iter().sum()).collect();
    let mut first = 0;
    let places: Vec<Vec<usize>> = groups
        .iter()
        .map(|group| {
            first += group.len();
            (first - group.len()..first).collect()
        })
        .collect();
    let all: Vec<usize> = (0..groups.len()).collect();
    let shares = spread(&all, &sums, ranks, groups.len()).into_iter();
    shares
        .map(|numbers| numbers.into_iter().map(|at| places[at].clone()).collect())
        .collect()
}

/// Examples spread over the ranks, and those of a rank over as many micro-batches as every rank makes; nothing where a
/// micro-batch would be larger than allowed.
fn regrouped(groups: &[Vec<usize>], ranks: usize, limit: Limit) -> Option<Vec<Share>> {
    let tokens = groups.concat();
    let batches = groups.len().div_ceil(ranks.max(1));
    let own = groups.iter().map(|group| group.iter().sum()).max();
    let most = limit.tokens.max(own.unwrap_or(0));
    let all: Vec<usize> = (0..tokens.len()).collect();
    let mut shares = Vec::with_capacity(ranks);
    for examples in spread(&all, &tokens, ranks, batches * limit.examples) {
        let mut batches = spread(&examples, &tokens, batches, limit.examples);
        batches.retain(|batch| !batch.is_empty());
        let fits = |batch: &Vec<usize>| batch.iter().map(|&at| tokens[at]).sum::<usize>() <= most;
        if !batches.iter().all(fits) {
            return None;
        }
        shares.push(batches);
    }
    Some(shares)
}

/// Spreads items over bins of at most `most` items: the largest first, each into the bin that has the least so far. Each bin
/// has its items in ascending order.
fn spread(items: &[usize], sizes: &[usize], bins: usize, most: usize) -> Vec<Vec<usize>> {
    let mut order = items.to_vec();
    order.sort_by_key(|&at| (Reverse(sizes[at]), at));
    let mut filled = vec![(0usize, Vec::new()); bins.max(1)];
    for at in order {
        let open = filled.iter_mut().filter(|(_, items)| items.len() < most);
        if let Some((sum, items)) = open.min_by_key(|(sum, items)| (*sum, items.len())) {
            *sum += sizes[at];
            items.push(at);
        }
    }
    let sorted = |(_, mut items): (usize, Vec<usize>)| {
        items.sort_unstable();
        items
    };
    filled.into_iter().map(sorted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::ops::philox;
    use proptest::prelude::*;

    const ANY: Limit = Limit {
        examples: 2,
        tokens: usize::MAX,
    };

    fn sums(shares: &[Share], tokens: &[usize]) -> Vec<usize> {
        let sum = |share: &Share| share.iter().flatten().map(|&at| tokens[at]).sum();
        shares.iter().map(sum).collect()
    }

    #[test]
    fn micro_batches_stay_whole_without_a_limit() {
        let of = |groups: &[&[usize]], ranks| {
            let groups: Vec<Vec<usize>> = groups.iter().map(|group| group.to_vec()).collect();
            share(&groups, ranks, None)
        };
        let whole = of(&[&[1, 3], &[2, 2], &[4], &[4]], 2);
        assert_eq!(
            whole,
            [vec![vec![0, 1], vec![4]], vec![vec![2, 3], vec![5]]]
        );
        assert_eq!(
            of(&[&[9], &[1], &[1], &[6]], 2),
            [vec![vec![0]], vec![vec![1], vec![2], vec![3]]]
        );
        assert_eq!(of(&[&[5]], 3), [vec![vec![0]], vec![], vec![]]);
    }

    #[test]
    fn examples_go_where_they_are_needed() {
        let groups = [vec![9, 8], vec![2, 1]];
        assert_eq!(
            share(&groups, 2, None),
            [vec![vec![0, 1]], vec![vec![2, 3]]]
        );
        assert_eq!(
            share(&groups, 2, Some(ANY)),
            [vec![vec![0, 3]], vec![vec![1, 2]]]
        );
        let even = [vec![5, 5], vec![5, 5]];
        assert_eq!(
            share(&even, 2, Some(ANY)),
            share(&even, 2, None),
            "nothing is gained"
        );
    }

    proptest! {
        #[test]
        fn every_example_is_computed_once_and_no_limit_is_passed(
            tokens in prop::collection::vec(1usize..5000, 1..60), size in 1usize..6, ranks in 1usize..9, room in 0usize..9000,
        ) {
            let groups: Vec<Vec<usize>> = tokens.chunks(size).map(<[usize]>::to_vec).collect();
            let limit = Limit { examples: size, tokens: room };
            let own = groups.iter().map(|group| group.iter().sum::<usize>()).max().unwrap();
            let whole = share(&groups, ranks, None);
            let shares = share(&groups, ranks, Some(limit));
            for shares in [&whole, &shares] {
                prop_assert_eq!(shares.len(), ranks);
                let mut all = shares.iter().flatten().flatten().copied().collect::<Vec<usize>>();
                all.sort_unstable();
                prop_assert_eq!(all, (0..tokens.len()).collect::<Vec<_>>());
                for batch in shares.iter().flatten() {
                    prop_assert!(!batch.is_empty() && batch.len() <= size && batch.is_sorted());
                    let sum: usize = batch.iter().map(|&at| tokens[at]).sum();
                    prop_assert!(sum <= own.max(room));
                }
            }
            let most = |shares: &[Share]| sums(shares, &tokens).into_iter().max().unwrap();
            prop_assert!(most(&shares) <= most(&whole));
            if shares != whole {
                let batches = groups.len().div_ceil(ranks);
                prop_assert!(shares.iter().all(|share| share.len() <= batches));
            }
            // Longest first is within 4/3 of the best there can be (Graham, 1969), which is at least the mean and the longest.
            if size == 1 {
                let mut sorted = tokens.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                let two = sorted.get(ranks).map_or(0, |&next| next + sorted[ranks - 1]);
                let least = tokens.iter().sum::<usize>().div_ceil(ranks).max(sorted[0]).max(two);
                prop_assert!(most(&whole) as f64 <= least as f64 * 4.0 / 3.0 + 1.0);
            }
        }
    }

    /// Tokens of the longest rank over the mean, on average over steps of examples whose lengths are log-normal around 400 tokens,
    /// up to 4,096: micro-batches whole, and by example.
    fn imbalance(size: usize, accumulation: usize, ranks: usize) -> [f64; 2] {
        let steps = 500;
        let mut total = [0.0; 2];
        for step in 0..steps {
            let length = |at: usize| {
                let words = philox::block(step, 7, at as u64);
                let normal = philox::normals(words[0], words[1])[0];
                ((400.0 * (0.9 * normal).exp()) as usize).clamp(16, 4096)
            };
            let tokens: Vec<usize> = (0..size * accumulation * ranks).map(length).collect();
            let groups: Vec<Vec<usize>> = tokens.chunks(size).map(<[usize]>::to_vec).collect();
            let limit = Limit {
                examples: size,
                tokens: size * 4096,
            };
            let mean = tokens.iter().sum::<usize>() as f64 / ranks as f64;
            for (total, limit) in total.iter_mut().zip([None, Some(limit)]) {
                let shares = share(&groups, ranks, limit);
                *total += longest(&shares, &tokens) as f64 / mean;
            }
        }
        total.map(|total| total / steps as f64)
    }

    /// The table in docs/several-cards.md: `cargo test -p apus-engine --lib imbalance -- --nocapture`.
    #[test]
    fn the_imbalance_of_unequal_lengths() {
        for (size, accumulation) in [(4, 1), (4, 4), (1, 16)] {
            for ranks in [2, 4, 8] {
                let [whole, by_example] = imbalance(size, accumulation, ranks);
                println!(
                    "{size} x {accumulation}, {ranks} ranks: {whole:.3} whole, {by_example:.3} by example"
                );
                assert!(by_example <= whole);
                assert!(by_example < 1.0 + 0.5 * (whole - 1.0) || size == 1);
            }
        }
    }
}
