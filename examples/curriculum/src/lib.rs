//! Easy rows first: those with few tokens, those with a low loss so far, or those with a low value in a column.

use apus_sdk::{Epoch, EpochRow, Need, Result, Sampler};

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

apus_sdk::options! {
    struct ByColumn {
        /// The column, which has a number in each row.
        column: String = "difficulty".to_owned(),
        /// Epochs that go from low values to high ones; later ones are in random order.
        epochs: usize = 1,
    }
}

apus_sdk::register! {
    /// From low values in a column to high ones, in the first epochs.
    Sampler, "by_column", ByColumn
}

impl Sampler for ByColumn {
    fn needs() -> &'static [Need] {
        &[Need::Columns]
    }

    fn columns(&self) -> Result<Vec<String>> {
        Ok(vec![self.column.clone()])
    }

    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let mut order = epoch.shuffled();
        if epoch.number() < self.epochs {
            let value = |row: EpochRow| {
                let value = row.column(&self.column)?;
                let number = value.as_f64();
                number.ok_or_else(|| {
                    format!("{} of row {} is {value}", self.column, row.number()).into()
                })
            };
            let values: Vec<f64> = epoch.rows().map(value).collect::<Result<_>>()?;
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::RowLoss;
    use apus_sdk::serde_json::{Value, json};
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

    #[test]
    fn low_values_come_first_and_what_is_no_number_is_named() {
        let mut sampler = make::<dyn Sampler>("by_column", json!({})).unwrap();
        let rows = Rows::new(&[10; 3]);
        let of = |values: &[Value]| rows.clone().column("difficulty", values);
        let order = of(&[json!(2), json!(0.5), json!(1)]).order(&mut *sampler, 0);
        assert_eq!(order.unwrap(), [1, 2, 0]);
        let said = of(&[json!(2), json!("x"), json!(1)]).order(&mut *sampler, 0);
        assert_eq!(
            said.unwrap_err().to_string(),
            "difficulty of row 1 is \"x\""
        );
        let said = rows.order(&mut *sampler, 0).unwrap_err().to_string();
        assert!(said.contains("was not asked for"), "{said}");
    }
}
