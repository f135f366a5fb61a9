//! A sampler in a process: it is shown an epoch, and answers with an order of rows or with their weights.

use super::Remote;
use apus_sdk::{Epoch, Error, Need, Result, RowLoss, Run, Sampler, Setup};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

struct ProcessSampler {
    remote: Remote,
    facts: Facts,
    /// The length of an epoch, once the program was asked for it; 0 before that.
    length: AtomicUsize,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    /// The columns of rows that it is shown.
    columns: Vec<String>,
    /// Whether it has `epoch_length`.
    length: bool,
    /// Whether it has `save_state` and `load_state`.
    state: bool,
}

/// The arguments of a call.
#[derive(Serialize)]
struct With<'a> {
    epoch: Shown<'a>,
}

/// An epoch and its rows, a list for each of their columns.
#[derive(Serialize)]
struct Shown<'a> {
    number: usize,
    seed: u64,
    rows: usize,
    rows_per_batch: usize,
    rows_per_step: usize,
    datasets: &'a [String],
    channels: &'a [String],
    tokens: &'a [u32],
    dataset: Vec<Option<u32>>,
    channel: Vec<Option<u32>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    columns: &'a BTreeMap<String, Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    losses: Option<Vec<Option<Lost>>>,
}

/// What a row has lost so far.
#[derive(Serialize)]
struct Lost {
    last: f64,
    mean: f64,
    times: u64,
}

/// An answer that is no order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    weights: Vec<f64>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn Sampler>> {
    let facts: Facts = remote.facts()?;
    if !facts.columns.is_empty() && !remote.declares(Need::Columns) {
        return Err(remote.unannounced("make", "it asks for columns", Need::Columns));
    }
    Ok(Box::new(ProcessSampler {
        remote,
        facts,
        length: AtomicUsize::new(0),
    }))
}

impl ProcessSampler {
    fn shown<'a>(&self, epoch: &Epoch<'a>) -> With<'a> {
        let (about, columns) = epoch.parts();
        let places = |column: &[u32], names: &[String]| {
            let place = |row| {
                let place = column.get(row).copied()?;
                ((place as usize) < names.len()).then_some(place)
            };
            (0..epoch.len()).map(place).collect()
        };
        let lost = |loss: &RowLoss| {
            let lost = Lost {
                last: loss.last(),
                mean: loss.mean(),
                times: loss.times(),
            };
            (lost.times > 0).then_some(lost)
        };
        let losses = || columns.losses.iter().map(lost).collect();
        With {
            epoch: Shown {
                number: epoch.number(),
                seed: epoch.seed(),
                rows: epoch.len(),
                rows_per_batch: epoch.rows_per_batch(),
                rows_per_step: epoch.rows_per_step(),
                datasets: epoch.datasets(),
                channels: epoch.channels(),
                tokens: columns.tokens,
                dataset: places(columns.datasets, epoch.datasets()),
                channel: places(columns.channels, epoch.channels()),
                columns: &about.columns,
                losses: self.remote.declares(Need::Losses).then(losses),
            },
        }
    }

    /// As many rows as an epoch has, each drawn by its weight; a row may be drawn several times.
    fn drawn(&self, epoch: &Epoch, weights: &[f64]) -> Result<Vec<usize>> {
        let fails = |why: String| Error::new(format!("{}: {why}", self.remote.what("order")));
        if weights.len() != epoch.len() {
            return Err(fails(format!(
                "it gave {} weights for {} rows",
                weights.len(),
                epoch.len()
            )));
        }
        let mut sums = Vec::with_capacity(weights.len());
        let mut sum = 0.0;
        for (row, weight) in weights.iter().enumerate() {
            if !(weight.is_finite() && *weight >= 0.0) {
                return Err(fails(format!(
                    "the weight of row {row} is {weight}; a weight is a finite number of 0 or more"
                )));
            }
            sum += weight;
            sums.push(sum);
        }
        if !(sum.is_finite() && sum > 0.0) {
            return Err(fails(format!("the sum of the weights is {sum}")));
        }
        let length = match self.length.load(Ordering::Relaxed) {
            0 => epoch.len(),
            length => length,
        };
        // The last row that can be drawn, should rounding reach beyond all sums.
        let last = weights.iter().rposition(|weight| *weight > 0.0);
        let mut random = epoch.random();
        let draw = |_| {
            let place = random.unit() * sum;
            let row = sums.partition_point(|&sum| sum <= place);
            row.min(last.unwrap_or_default())
        };
        Ok((0..length).map(draw).collect())
    }
}

impl Sampler for ProcessSampler {
    fn check(&self, setup: &Setup) -> Result<()> {
        self.remote.check(setup)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.remote.begin(run)
    }

    fn columns(&self) -> Result<Vec<String>> {
        Ok(self.facts.columns.clone())
    }

    fn epoch_length(&self, epoch: &Epoch) -> Result<usize> {
        let length = match self.facts.length {
            true => self.remote.call("epoch_length", self.shown(epoch))?,
            false => epoch.len(),
        };
        self.length.store(length, Ordering::Relaxed);
        Ok(length)
    }

    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let answer: Value = self.remote.call("order", self.shown(epoch))?;
        match answer {
            Value::Object(_) => {
                let Weighted { weights } = self.remote.read("order", &answer)?;
                self.drawn(epoch, &weights)
            }
            order => self.remote.read("order", &order),
        }
    }

    fn save_state(&self) -> Result<Value> {
        match self.facts.state {
            true => self.remote.call("save_state", json!({})),
            false => Ok(Value::Null),
        }
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        match self.facts.state {
            true => self.remote.call("load_state", json!({"saved": saved})),
            false => Ok(()),
        }
    }
}
