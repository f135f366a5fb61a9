//! Samplers: which rows an epoch trains, in which order and how often.

use crate::{Error, Need, Random, Result, Run, Setup, needs};
use abi_stable::StableAbi;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The order in which an epoch takes the rows of the training data.
///
/// It is asked before each epoch and may leave rows out or take them several times. What it answers has to follow from
/// what it is given, its options and its state: a run that is resumed asks again, and the memory plan asks another
/// instance beforehand. With several ranks one of them asks for all.
///
/// ```
/// use apus_sdk::{Epoch, Result, Sampler, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct ShortFirst {
///         /// Epochs that begin with short rows; later ones are in random order.
///         epochs: usize = 1,
///     }
/// }
///
/// impl Sampler for ShortFirst {
///     fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
///         let mut order = epoch.shuffled();
///         if epoch.number() < self.epochs {
///             order.sort_by_key(|&row| epoch.row(row).tokens());
///         }
///         Ok(order)
///     }
/// }
///
/// register! {
///     /// Short rows first.
///     Sampler, "short_first", ShortFirst
/// }
///
/// let mut sampler = testing::make::<dyn Sampler>("short_first", json!({}))?;
/// let rows = testing::Rows::new(&[30, 10, 20]);
/// assert_eq!(rows.order(&mut *sampler, 0)?, [1, 2, 0]);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Sampler: Send + Sync {
    /// What of SDK 1.1 and later it uses beside what its kind has: [`Need::Losses`], [`Need::Columns`], [`Need::Run`].
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Training begins soon, as part of this run. The run tells something to those that declare [`Need::Run`] or a
    /// need that implies it.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run does not begin.
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// The columns of rows that it reads ([`EpochRow::column`]). It is asked once, after it was made, if it declares
    /// [`Need::Columns`]; the columns are kept with the tokens of each row. A column that no row of the training data has is an
    /// error before the run.
    ///
    /// # Errors
    /// Options that do not fit.
    fn columns(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// How many rows an epoch takes: as many as there are, unless it says otherwise. Every order of the run has this length,
    /// from which the number of steps follows. It is asked before the run, with the first epoch and without losses.
    ///
    /// # Errors
    /// Options that do not fit the data.
    fn epoch_length(&self, epoch: &Epoch) -> Result<usize> {
        Ok(epoch.len())
    }

    /// The rows of this epoch, by their numbers, in the order in which they are trained.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run ends.
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>>;

    /// What it keeps from one epoch to the next, for a checkpoint; `null` if there is nothing.
    ///
    /// # Errors
    /// Whatever cannot be saved.
    fn save_state(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Goes on from what [`save_state`](Self::save_state) gave.
    ///
    /// # Errors
    /// A state that is none of its own.
    fn load_state(&mut self, saved: Value) -> Result<()> {
        let _ = saved;
        Ok(())
    }
}

/// An epoch that is about to begin, and the rows that it can take: the examples of the training data, or packed rows of
/// them, which are trained as one.
#[derive(Debug, Clone, Copy)]
pub struct Epoch<'a> {
    about: &'a EpochAbout,
    columns: EpochColumns<'a>,
}

/// What holds for all rows; crosses the boundary as JSON.
#[doc(hidden)]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochAbout {
    /// Counted from 0.
    pub number: usize,
    /// `data_seed`.
    pub seed: u64,
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Rows of an optimizer step, over all ranks.
    pub step: usize,
    /// Names of datasets.
    pub datasets: Vec<String>,
    /// Names of channels.
    pub channels: Vec<String>,
    /// Columns that the sampler asks for, a value for each row.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Vec<Value>>,
}

/// What is known of each row.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct EpochColumns<'a> {
    /// Tokens.
    pub tokens: &'a [u32],
    /// The dataset, as a place among the names.
    pub datasets: &'a [u32],
    /// The channel, as a place among the names.
    pub channels: &'a [u32],
    /// Losses; none at all unless they are collected.
    pub losses: &'a [RowLoss],
}

/// What a row has lost so far: the mean over its supervised tokens, with their weights.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, StableAbi)]
pub struct RowLoss {
    last: f64,
    mean: f64,
    times: u64,
}

impl RowLoss {
    /// The loss of a row that was trained so often.
    pub fn new(last: f64, mean: f64, times: u64) -> Self {
        Self { last, mean, times }
    }

    /// The loss when it was trained last.
    pub fn last(&self) -> f64 {
        self.last
    }

    /// The mean of the losses of all times that it was trained.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// How often it was trained.
    pub fn times(&self) -> u64 {
        self.times
    }

    /// With the loss of one more time.
    #[must_use]
    pub fn and(&self, loss: f64) -> Self {
        let times = self.times + 1;
        Self {
            last: loss,
            mean: self.mean + (loss - self.mean) / times as f64,
            times,
        }
    }
}

impl<'a> Epoch<'a> {
    /// Made by the host and by tests. Columns are as long as `tokens`, but for those that are empty.
    #[doc(hidden)]
    pub fn new(about: &'a EpochAbout, columns: EpochColumns<'a>) -> Self {
        Self { about, columns }
    }

    #[doc(hidden)]
    pub fn parts(&self) -> (&'a EpochAbout, EpochColumns<'a>) {
        (self.about, self.columns)
    }

    /// Checks an order of an epoch that has this length.
    ///
    /// # Errors
    /// It has another one, or takes a row that there is not; the error says where.
    #[doc(hidden)]
    pub fn check(&self, order: &[usize], length: usize) -> Result<()> {
        let rows = self.len();
        if length == 0 {
            return Err("an epoch takes no row at all (epoch_length is 0)".into());
        }
        if order.len() != length {
            return Err(Error::new(format!(
                "it takes {} rows, and an epoch has {length}; fn epoch_length of Sampler says how many it takes",
                order.len()
            )));
        }
        match order.iter().enumerate().find(|(_, row)| **row >= rows) {
            Some((at, row)) => Err(Error::new(format!(
                "at place {at} it takes row {row}; the last of {rows} rows is {}",
                rows.saturating_sub(1)
            ))),
            None => Ok(()),
        }
    }

    /// Its number; the first is 0.
    pub fn number(&self) -> usize {
        self.about.number
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.columns.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.columns.tokens.is_empty()
    }

    /// A row.
    ///
    /// # Panics
    /// There is none of this number.
    pub fn row(&self, number: usize) -> EpochRow<'a> {
        assert!(
            number < self.len(),
            "there is no row {number} among {}",
            self.len()
        );
        EpochRow {
            number,
            epoch: *self,
        }
    }

    /// All rows, by their numbers.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = EpochRow<'a>> + use<'a> {
        let epoch = *self;
        (0..self.len()).map(move |number| EpochRow { number, epoch })
    }

    /// The datasets of the rows, as `--dataset` names them.
    pub fn datasets(&self) -> &'a [String] {
        &self.about.datasets
    }

    /// The channels of the rows.
    pub fn channels(&self) -> &'a [String] {
        &self.about.channels
    }

    /// Rows of a micro-batch (`per_device_train_batch_size`).
    pub fn rows_per_batch(&self) -> usize {
        self.about.batch
    }

    /// Rows of an optimizer step, over all its micro-batches and ranks.
    pub fn rows_per_step(&self) -> usize {
        self.about.step
    }

    /// The seed of the data (`data_seed`).
    pub fn seed(&self) -> u64 {
        self.about.seed
    }

    /// The rows in their own order.
    pub fn in_order(&self) -> Vec<usize> {
        (0..self.len()).collect()
    }

    /// The rows in random order: another one in each epoch, the same one in each run of this seed.
    pub fn shuffled(&self) -> Vec<usize> {
        let mut order = self.in_order();
        self.random().shuffle(&mut order);
        order
    }

    /// Random numbers of this epoch.
    pub fn random(&self) -> Random {
        Random::new(self.about.seed, self.about.number as u64)
    }
}

/// A row that an epoch can take.
#[derive(Debug, Clone, Copy)]
pub struct EpochRow<'a> {
    number: usize,
    epoch: Epoch<'a>,
}

impl<'a> EpochRow<'a> {
    /// Its number, by which an order takes it.
    pub fn number(&self) -> usize {
        self.number
    }

    /// How many tokens it has.
    pub fn tokens(&self) -> usize {
        self.epoch.columns.tokens[self.number] as usize
    }

    /// The dataset that it is from, as a place among [`Epoch::datasets`]. A packed row of several has none.
    pub fn dataset(&self) -> Option<usize> {
        place(
            self.epoch.columns.datasets,
            self.number,
            self.epoch.datasets(),
        )
    }

    /// Its channel, if it has one. A packed row of several has none.
    pub fn channel(&self) -> Option<&'a str> {
        let names = self.epoch.channels();
        let place = place(self.epoch.columns.channels, self.number, names)?;
        Some(&names[place])
    }

    /// The value of a column that the sampler asks for ([`Sampler::columns`](crate::Sampler::columns)), as it stands in the dataset;
    /// null where the row does not have it, and for a packed row whose rows have different ones.
    ///
    /// # Errors
    /// The sampler does not ask for this column, or does not declare [`Need::Columns`].
    pub fn column(&self, name: &str) -> Result<&'a Value> {
        needs::require(Need::Columns)?;
        let column = self.epoch.about.columns.get(name);
        column.and_then(|column| column.get(self.number)).ok_or_else(|| {
            Error::new(format!(
                "the column {name:?} was not asked for when the sampler was made, so that rows do not have it; give its name in \
                 fn columns(&self) -> Result<Vec<String>> of the sampler"
            ))
        })
    }

    /// What it has lost so far; `None` before it was trained. It needs [`Need::Losses`].
    pub fn loss(&self) -> Option<RowLoss> {
        needs::note(Need::Losses);
        let loss = self.epoch.columns.losses.get(self.number)?;
        (loss.times > 0).then_some(*loss)
    }
}

fn place(column: &[u32], row: usize, names: &[String]) -> Option<usize> {
    let place = *column.get(row)? as usize;
    (place < names.len()).then_some(place)
}
