//! A sampler: every row once in each epoch, those with few tokens first in the first epochs.

use apus_sdk::{Epoch, Result, Sampler};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct ShortFirst {
        /// Epochs that begin with short rows; later ones are in random order.
        epochs: usize = 1,
    }
}

apus_sdk::register! {
    /// Short rows first.
    Sampler, "{{component}}", ShortFirst
}

impl Sampler for ShortFirst {
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let mut order = epoch.shuffled();
        if epoch.number() < self.epochs {
            order.sort_by_key(|&row| epoch.row(row).tokens());
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Rows, make};

    #[test]
    fn short_rows_come_first_at_the_beginning() {
        let mut sampler = make::<dyn Sampler>("{{component}}", json!({})).unwrap();
        let rows = Rows::new(&[30, 10, 40, 20]);
        assert_eq!(rows.order(sampler.as_mut(), 0).unwrap(), [1, 3, 0, 2]);
        let mut later = rows.order(sampler.as_mut(), 1).unwrap();
        later.sort_unstable();
        assert_eq!(later, [0, 1, 2, 3]);
    }
}
