//! Rows of similar length together, as transformers' `LengthGroupedSampler` (`trainer_pt_utils.py`): the rows of many steps are
//! sorted, longest first, and the longest row of all comes at the very beginning, so that a run that is going to be out of
//! memory is so at once.

use apus_sdk::{Epoch, Result, Sampler, register};
use std::cmp::Reverse;

/// Steps whose rows are sorted together (`mega_batch_mult`).
const SORTED_STEPS: usize = 50;

apus_sdk::options! {
    struct GroupByLength {
        /// Whether another random order is grouped in each epoch; without it that of the data.
        shuffle: bool = true,
    }
}

impl Sampler for GroupByLength {
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let mut order = match self.shuffle {
            true => epoch.shuffled(),
            false => epoch.in_order(),
        };
        let step = epoch.rows_per_step().max(1);
        let steps = (order.len() / (step * 4)).clamp(1, SORTED_STEPS);
        let tokens = |row: usize| epoch.row(row).tokens();
        for sorted in order.chunks_mut(steps * step) {
            sorted.sort_by_key(|&row| Reverse(tokens(row)));
        }
        let heads = (0..order.len()).step_by(steps * step);
        let longest = heads.max_by_key(|&at| (tokens(order[at]), Reverse(at)));
        if let Some(longest) = longest {
            order.swap(0, longest);
        }
        Ok(order)
    }
}

register! {
    /// Rows of similar length together, longest first within many steps, as transformers' LengthGroupedSampler.
    Sampler, "group_by_length", GroupByLength
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{Rows, make};
    use serde_json::json;

    #[test]
    fn rows_of_a_step_are_of_similar_length() {
        let lengths: Vec<usize> = (0..1000).map(|i| 1 + i * 7919 % 1000).collect();
        let rows = Rows::new(&lengths).in_steps_of(2, 8);
        let order = |name: &str, epoch| {
            let mut sampler = make::<dyn Sampler>(name, json!({})).unwrap();
            rows.order(&mut *sampler, epoch).unwrap()
        };
        let spread = |order: &[usize]| {
            let steps = order.chunks(8).skip(1).map(|step| {
                let of = step.iter().map(|&row| lengths[row]);
                of.clone().max().unwrap_or(0) - of.min().unwrap_or(0)
            });
            steps.sum::<usize>()
        };
        let (grouped, random) = (order("group_by_length", 0), order("random", 0));
        assert!(10 * spread(&grouped) < spread(&random));
        assert_eq!(lengths[grouped[0]], 1000);
        assert_ne!(grouped, order("group_by_length", 1));
        let mut sorted = grouped;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_of_the_data_can_be_grouped() {
        let options = json!({"shuffle": false});
        let mut sampler = make::<dyn Sampler>("group_by_length", options).unwrap();
        let rows = Rows::new(&[1, 3, 2, 5, 9, 4]).in_steps_of(1, 2);
        let order = rows.order(&mut *sampler, 3).unwrap();
        // Pairs are sorted, and the longest row comes first.
        assert_eq!(order, [4, 0, 3, 2, 1, 5]);
    }
}
