//! Which rank updates which parameter, where the optimizer's state is spread over the ranks.
//!
//! Parameters stay whole, so that a component sees complete ones: an update that looks at a matrix, as Muon's, is the same
//! as in one process. What follows from a list alone is the same on every rank.

/// For each parameter, by its number of elements, the rank that owns it: the largest first, each to the rank that has the
/// fewest elements so far, the lower of two.
pub fn owners(elements: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..elements.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(elements[at]));
    let mut loads = vec![0usize; ranks.max(1)];
    let mut owners = vec![0; elements.len()];
    for at in order {
        let least = loads.iter().enumerate().min_by_key(|(_, load)| **load);
        let owner = least.map_or(0, |(rank, _)| rank);
        loads[owner] = loads[owner].saturating_add(elements[at]);
        owners[at] = owner;
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_parameters_go_round() {
        assert_eq!(owners(&[5, 5, 5, 5, 5], 2), [0, 1, 0, 1, 0]);
        assert_eq!(owners(&[1, 9, 2, 6], 2), [1, 0, 1, 1]);
        assert_eq!(owners(&[], 3), [0; 0]);
    }

    proptest! {
        #[test]
        fn no_rank_has_much_more_than_another(elements in prop::collection::vec(1usize..1000, 0..60), ranks in 1usize..9) {
            let owners = owners(&elements, ranks);
            let load = |rank| -> usize {
                let own = owners.iter().zip(&elements).filter(|(owner, _)| **owner == rank);
                own.map(|(_, elements)| elements).sum()
            };
            let loads: Vec<usize> = (0..ranks).map(load).collect();
            let largest = elements.iter().copied().max().unwrap_or(0);
            let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
            prop_assert!(most - least <= largest);
        }
    }
}
