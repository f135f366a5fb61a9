//! Which rank computes which micro-batches of a step.
//!
//! A step takes as long as its slowest rank, so micro-batches go by their tokens: the longest first, each to the rank that
//! has the fewest so far. A micro-batch stays whole and keeps its number in the step, by which its random numbers are drawn:
//! who computes it changes nothing in what it gives.

/// For each rank the micro-batches that it computes, by their numbers in the step, ascending. `tokens` has those of each.
/// Ties go to the lower rank, so that all agree.
pub fn share(tokens: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(tokens[at]), at));
    let mut shares = vec![(0usize, Vec::new()); ranks.max(1)];
    for at in order {
        let least = shares
            .iter_mut()
            .min_by_key(|(sum, batches)| (*sum, batches.len()));
        if let Some((sum, batches)) = least {
            *sum += tokens[at];
            batches.push(at);
        }
    }
    let sorted = |(_, mut batches): (usize, Vec<usize>)| {
        batches.sort_unstable();
        batches
    };
    shares.into_iter().map(sorted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_rank_waits_long() {
        assert_eq!(share(&[4, 4, 4, 4], 2), [vec![0, 2], vec![1, 3]]);
        assert_eq!(share(&[9, 1, 1, 1, 6], 2), [vec![0], vec![1, 2, 3, 4]]);
        assert_eq!(share(&[5], 3), [vec![0], vec![], vec![]]);
    }

    proptest! {
        #[test]
        fn every_micro_batch_is_computed_once(tokens in prop::collection::vec(1usize..5000, 0..40), ranks in 1usize..9) {
            let shares = share(&tokens, ranks);
            prop_assert_eq!(shares.len(), ranks);
            let mut all: Vec<usize> = shares.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..tokens.len()).collect::<Vec<_>>());
            // Longest first is within 4/3 of the best there can be (Graham, 1969), which is at least the mean and the longest.
            let sums = shares.iter().map(|share| share.iter().map(|&at| tokens[at]).sum::<usize>());
            let least = (tokens.iter().sum::<usize>() as f64 / ranks as f64).max(tokens.iter().copied().max().unwrap_or(0) as f64);
            let two_longest = {
                let mut sorted = tokens.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                sorted.get(ranks).map_or(0, |&next| next + sorted[ranks - 1]) as f64
            };
            prop_assert!(sums.max().unwrap_or(0) as f64 <= least.max(two_longest) * 4.0 / 3.0 + 1.0);
        }
    }
}
