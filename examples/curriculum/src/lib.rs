//! Easy rows first: those with few tokens, or those with a low loss so far.

use apus_sdk::{Epoch, Need, Result, Sampler};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct ShortFirst {
        /// Epochs that go from short rows to long ones; later ones are in random order.
        epochs: usize = 1,
    }
}

apus_sdk::register! {
    /// Short rows first, in the first epochs.
    Sampler, "short_first", ShortFirst
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

apus_sdk::options! {
    struct EasyFirst {
        /// Share of the rows that an epoch takes, those with the lowest losses.
        share: f64 = 1.0,
    }
    limits {
        share: 0.01..=1.0,
    }
}

apus_sdk::register! {
    /// From a low loss, when a row was trained last, to a high one. Rows that were never trained come before all others.
    Sampler, "easy_first", EasyFirst
}

impl Sampler for EasyFirst {
    fn needs() -> &'static [Need] {
        &[Need::Losses]
    }

    fn epoch_length(&self, epoch: &Epoch) -> Result<usize> {
        Ok((epoch.len() as f64 * self.share).ceil() as usize)
    }

    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let loss = |row: &usize| epoch.row(*row).loss().map_or(0.0, |loss| loss.last());
        let mut order = epoch.shuffled();
        order.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
        order.truncate(self.epoch_length(epoch)?);
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::RowLoss;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Rows, make};

    #[test]
    fn short_rows_come_first_in_the_first_epoch() {
        let mut sampler = make::<dyn Sampler>("short_first", json!({})).unwrap();
        let rows = Rows::new(&[30, 10, 40, 20]);
        assert_eq!(rows.order(&mut *sampler, 0).unwrap(), [1, 3, 0, 2]);
    }

    #[test]
    fn a_share_of_the_easiest_rows_is_taken_and_rows_without_a_loss_are_tried() {
        let mut sampler = make::<dyn Sampler>("easy_first", json!({"share": 0.7})).unwrap();
        let loss = |loss| RowLoss::default().and(9.0).and(loss);
        let rows = Rows::new(&[10; 4])
            .loss(0, loss(3.0))
            .loss(1, loss(2.0))
            .loss(3, loss(1.0));
        assert_eq!(rows.order(&mut *sampler, 1).unwrap(), [2, 3, 1]);
    }
}
