//! Samplers: rows of a small training set.

use crate::sampler::{EpochAbout, EpochColumns, RowLoss};
use crate::{Epoch, Result, Sampler, needs};
use serde_json::Value;

/// Rows that a [`Sampler`](trait@crate::Sampler) orders, with a micro-batch of 2 and a step of 4.
///
/// ```
/// use apus_sdk::{RowLoss, testing::Rows};
///
/// let rows = Rows::new(&[30, 10, 20])
///     .dataset("songs", &[0, 2])
///     .channel("loud", &[1])
///     .loss(2, RowLoss::new(0.5, 0.75, 2));
/// ```
#[derive(Debug, Clone)]
pub struct Rows {
    about: EpochAbout,
    tokens: Vec<u32>,
    datasets: Vec<u32>,
    channels: Vec<u32>,
    losses: Vec<RowLoss>,
}

impl Rows {
    /// Rows with so many tokens each, without dataset, channel and losses.
    pub fn new(tokens: &[usize]) -> Self {
        let count = tokens.len();
        Self {
            about: EpochAbout {
                seed: 42,
                batch: 2,
                step: 4,
                ..EpochAbout::default()
            },
            tokens: tokens.iter().map(|&tokens| tokens as u32).collect(),
            datasets: vec![u32::MAX; count],
            channels: vec![u32::MAX; count],
            losses: vec![RowLoss::default(); count],
        }
    }

    /// These rows are from a dataset of this name.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[track_caller]
    pub fn dataset(mut self, name: &str, rows: &[usize]) -> Self {
        let place = self.about.datasets.len() as u32;
        self.about.datasets.push(name.to_owned());
        rows.iter().for_each(|&row| self.datasets[row] = place);
        self
    }

    /// These rows are of a channel of this name.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[track_caller]
    pub fn channel(mut self, name: &str, rows: &[usize]) -> Self {
        let place = self.about.channels.len() as u32;
        self.about.channels.push(name.to_owned());
        rows.iter().for_each(|&row| self.channels[row] = place);
        self
    }

    /// The rows have these values in a column that the sampler asks for.
    #[must_use]
    pub fn column(mut self, name: &str, values: &[Value]) -> Self {
        self.about.columns.insert(name.to_owned(), values.to_vec());
        self
    }

    /// This row has lost so much.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[track_caller]
    pub fn loss(mut self, row: usize, loss: RowLoss) -> Self {
        self.losses[row] = loss;
        self
    }

    /// Rows of a micro-batch and of a step.
    #[must_use]
    pub fn in_steps_of(mut self, batch: usize, step: usize) -> Self {
        (self.about.batch, self.about.step) = (batch, step);
        self
    }

    /// The order of an epoch.
    ///
    /// # Errors
    /// Those of the sampler; a row that there is not; another length than it says; what a run would refuse.
    pub fn order(&self, sampler: &mut dyn Sampler, epoch: usize) -> Result<Vec<usize>> {
        let about = EpochAbout {
            number: epoch,
            ..self.about.clone()
        };
        let columns = EpochColumns {
            tokens: &self.tokens,
            datasets: &self.datasets,
            channels: &self.channels,
            losses: &self.losses,
        };
        let epoch = Epoch::new(&about, columns);
        let length = needs::checked(sampler.epoch_length(&epoch))?;
        let order = needs::checked(sampler.order(&epoch))?;
        epoch.check(&order, length)?;
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Need;

    struct Fixed(Vec<usize>, usize);
    impl Sampler for Fixed {
        fn epoch_length(&self, _: &Epoch) -> Result<usize> {
            Ok(self.1)
        }
        fn order(&mut self, _: &Epoch) -> Result<Vec<usize>> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn an_order_that_a_run_would_refuse_is_refused() {
        let rows = Rows::new(&[1, 2, 3]);
        let said = |order: &[usize], length| {
            let order = rows.order(&mut Fixed(order.to_vec(), length), 0);
            order.map_or_else(|error| error.to_string(), |order| format!("{order:?}"))
        };
        assert_eq!(said(&[2, 2, 0, 2], 4), "[2, 2, 0, 2]");
        assert!(said(&[2, 0], 3).contains("takes 2 rows, and an epoch has 3"));
        assert!(said(&[0, 3], 2).contains("at place 1 it takes row 3; the last of 3 rows is 2"));
        assert!(said(&[], 0).contains("no row at all"));
    }

    struct Looks;
    impl Sampler for Looks {
        fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
            let known = |row: &usize| epoch.row(*row).loss().map(|loss| loss.times());
            Ok(vec![
                epoch.in_order().iter().filter_map(known).sum::<u64>()
                    as usize;
                epoch.len()
            ])
        }
    }

    #[test]
    fn a_row_says_what_is_known_of_it_and_losses_to_those_that_declare_it() {
        let rows = Rows::new(&[7, 9, 8])
            .dataset("a", &[0])
            .dataset("b", &[1])
            .channel("c", &[2])
            .loss(0, RowLoss::default().and(3.0).and(1.0));
        let mut seen = Vec::new();
        struct Sees<'a>(&'a mut Vec<(usize, Option<usize>, Option<String>)>);
        impl Sampler for Sees<'_> {
            fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
                let rows = epoch.rows();
                self.0.extend(rows.map(|row| {
                    (
                        row.tokens(),
                        row.dataset(),
                        row.channel().map(str::to_owned),
                    )
                }));
                Ok(epoch.in_order())
            }
        }
        rows.order(&mut Sees(&mut seen), 0).unwrap();
        let c = Some("c".to_owned());
        assert_eq!(seen, [(7, Some(0), None), (9, Some(1), None), (8, None, c)]);
        let looked = |declared: &'static [Need]| {
            needs::scoped(|| {
                needs::declare(declared);
                rows.order(&mut Looks, 0)
            })
        };
        assert_eq!(looked(&[Need::Losses]).unwrap(), [2, 2, 2]);
        let said = looked(&[]).unwrap_err().to_string();
        assert!(said.contains("&[Need::Losses]"), "{said}");
        let loss = rows.losses[0];
        assert_eq!((loss.last(), loss.mean(), loss.times()), (1.0, 2.0, 2));
    }
}
