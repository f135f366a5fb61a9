//! Every row once, in another random order in each epoch.

use apus_sdk::{Epoch, Result, Sampler, register};

apus_sdk::options! {
    struct RandomOrder {}
}

impl Sampler for RandomOrder {
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        Ok(epoch.shuffled())
    }
}

register! {
    /// Every row once, in another random order in each epoch.
    Sampler, "random", RandomOrder
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{Rows, make};
    use serde_json::json;

    #[test]
    fn every_row_once_in_an_order_of_the_epoch_and_the_seed() {
        let mut sampler = make::<dyn Sampler>("random", json!({})).unwrap();
        let rows = Rows::new(&[5; 12]);
        let first = rows.order(&mut *sampler, 0).unwrap();
        // As runs of earlier versions have it, which may be gone on with.
        assert_eq!(first, [10, 0, 6, 2, 4, 8, 11, 9, 1, 3, 7, 5]);
        let second = rows.order(&mut *sampler, 1).unwrap();
        assert_ne!(first, second);
        let mut sorted = second;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
    }
}
