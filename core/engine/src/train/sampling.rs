//! The order of examples, which a sampler says before each epoch. Where it follows from seed, options and rows alone a
//! resumed run asks again; where it follows from losses or from what the sampler keeps, a checkpoint has these and the order
//! of its epoch.

use crate::host::RunView;
use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_sdk::private::{EpochAbout, EpochColumns};
use apus_sdk::{Epoch, Need, RowLoss, Sampler};
use candle_core::{Device, Tensor, safetensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Order and losses inside a checkpoint, where they do not follow from anything else.
pub const SAMPLER_FILE: &str = "sampler.safetensors";

/// A row that is from no dataset alone, or of no channel.
const NONE: u32 = u32::MAX;

/// What is known of the examples before the first of them is trained.
#[derive(Debug, Clone, Default)]
pub struct RowTable {
    tokens: Vec<u32>,
    datasets: Vec<u32>,
    channels: Vec<u32>,
    dataset_names: Vec<String>,
    channel_names: Vec<String>,
    /// Those that the sampler asks for, by name.
    columns: BTreeMap<String, Vec<Value>>,
}

/// What a checkpoint keeps of a sampler, beside [`SAMPLER_FILE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplerState {
    /// The epoch whose order is in the file.
    epoch: Option<usize>,
    /// What the sampler keeps.
    state: Value,
}

/// A sampler with what it orders.
pub struct Sampling {
    sampler: Named<dyn Sampler>,
    about: EpochAbout,
    table: RowTable,
    /// The loss of each row so far; none where nobody asks.
    losses: Vec<RowLoss>,
    length: usize,
    /// An epoch and its order.
    current: Option<(usize, Vec<usize>)>,
}

impl RowTable {
    /// Of samples, or of packs of them. `datasets` has the dataset of each sample as a place among its names; it may be
    /// empty.
    pub fn new<'a>(
        samples: &'a [Encoded],
        packs: Option<&[Vec<usize>]>,
        (datasets, dataset_names): (&[u32], Vec<String>),
    ) -> Self {
        let mut channel_names: Vec<String> = Vec::new();
        let mut places: HashMap<&str, u32> = HashMap::new();
        let channel = |sample: &'a Encoded| {
            let Some(name) = sample.channel.as_deref() else {
                return NONE;
            };
            *places.entry(name).or_insert_with(|| {
                channel_names.push(name.to_owned());
                channel_names.len() as u32 - 1
            })
        };
        let channels: Vec<u32> = samples.iter().map(channel).collect();
        let tokens: Vec<u32> = samples.iter().map(|sample| sample.len() as u32).collect();
        let mut datasets = datasets.to_vec();
        datasets.resize(samples.len(), NONE);
        let one = Self {
            tokens,
            datasets,
            channels,
            dataset_names,
            channel_names,
            columns: BTreeMap::new(),
        };
        match packs {
            None => one,
            Some(packs) => one.packed(packs),
        }
    }

    /// Adds these columns of the samples, which kept them; a packed row has what all of its samples have.
    pub fn add_columns(
        &mut self,
        names: &[String],
        samples: &[Encoded],
        packs: Option<&[Vec<usize>]>,
    ) {
        let mut rows: Vec<_> = samples.iter().map(Encoded::columns).collect();
        for name in names {
            let mut column: Vec<Value> = rows
                .iter_mut()
                .map(|row| row.remove(name).unwrap_or_default())
                .collect();
            if let Some(packs) = packs {
                let of_pack = |pack: &Vec<usize>| {
                    let mut all = pack.iter().map(|&sample| &column[sample]);
                    let first = all.next().cloned().unwrap_or_default();
                    match all.all(|one| *one == first) {
                        true => first,
                        false => Value::Null,
                    }
                };
                column = packs.iter().map(of_pack).collect();
            }
            self.columns.insert(name.clone(), column);
        }
    }

    fn packed(self, packs: &[Vec<usize>]) -> Self {
        let common = |column: &[u32]| {
            let of_pack = |pack: &Vec<usize>| {
                let mut all = pack.iter().map(|&sample| column[sample]);
                let first = all.next().unwrap_or(NONE);
                if all.all(|one| one == first) {
                    first
                } else {
                    NONE
                }
            };
            packs.iter().map(of_pack).collect()
        };
        let tokens = packs.iter().map(|pack| {
            let tokens = pack.iter().map(|&sample| self.tokens[sample]);
            tokens.sum()
        });
        Self {
            tokens: tokens.collect(),
            datasets: common(&self.datasets),
            channels: common(&self.channels),
            ..self
        }
    }
}

impl Sampling {
    /// A sampler of these rows, in micro-batches of `batch` and steps of `step` rows.
    ///
    /// # Errors
    /// The sampler failed, or takes no row at all.
    pub fn new(
        sampler: Named<dyn Sampler>,
        mut table: RowTable,
        seed: u64,
        (batch, step): (usize, usize),
    ) -> Result<Self> {
        let losses = match sampler.declares(Need::Losses) {
            true => vec![RowLoss::default(); table.tokens.len()],
            false => Vec::new(),
        };
        let mut made = Self {
            about: EpochAbout {
                number: 0,
                seed,
                batch,
                step,
                datasets: table.dataset_names.clone(),
                channels: table.channel_names.clone(),
                columns: std::mem::take(&mut table.columns),
            },
            length: table.tokens.len(),
            sampler,
            table,
            losses,
            current: None,
        };
        if made.length > 0 {
            made.length = made.ask("epoch_length", |sampler, epoch| sampler.epoch_length(epoch))?;
            ensure!(
                made.length > 0,
                "{}, epoch_length: an epoch takes no row at all",
                made.sampler.label
            );
        }
        Ok(made)
    }

    fn ask<T>(
        &mut self,
        event: &str,
        ask: impl FnOnce(&mut dyn Sampler, &Epoch) -> apus_sdk::Result<T>,
    ) -> Result<T> {
        let columns = EpochColumns {
            tokens: &self.table.tokens,
            datasets: &self.table.datasets,
            channels: &self.table.channels,
            losses: &self.losses,
        };
        let epoch = Epoch::new(&self.about, columns);
        let inside = apus_base::doing::enter(&self.sampler.label, event);
        let answer = ask(&mut *self.sampler.component, &epoch);
        drop(inside);
        self.sampler.context(event, answer)
    }

    /// The sampler of no rows.
    #[cfg(test)]
    pub fn of_nothing() -> Self {
        struct InOrder;
        impl Sampler for InOrder {
            fn order(&mut self, epoch: &Epoch) -> apus_sdk::Result<Vec<usize>> {
                Ok(epoch.in_order())
            }
        }
        let sampler = Named::<dyn Sampler>::new("sampler in_order", Box::new(InOrder));
        let made = Self::new(sampler, RowTable::default(), 42, (1, 1));
        made.expect("it says nothing of its own")
    }

    /// Gives the run to the sampler.
    ///
    /// # Errors
    /// It failed.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        view.begin(&mut self.sampler, |sampler, run| sampler.begin(run))
    }

    /// Tokens of each row.
    pub fn tokens(&self) -> &[u32] {
        &self.table.tokens
    }

    /// Rows of an epoch.
    pub fn epoch_length(&self) -> usize {
        self.length
    }

    /// Whether orders follow from what is known before the run.
    pub fn is_known_beforehand(&self) -> bool {
        self.losses.is_empty() && !self.sampler.declares(Need::Run)
    }

    /// Whether losses of rows are collected.
    pub fn asks_for_losses(&self) -> bool {
        self.sampler.declares(Need::Losses)
    }

    /// The order of an epoch, asked for once.
    ///
    /// # Errors
    /// The sampler failed, or its order does not fit.
    pub fn order(&mut self, epoch: usize) -> Result<&[usize]> {
        if self.current.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.about.number = epoch;
            let length = self.length;
            let asked = self.ask("order", |sampler, epoch| {
                let order = sampler.order(epoch)?;
                let fits = epoch.check(&order, length);
                Ok((order, fits))
            });
            let (order, fits) = asked.with_context(|| format!("the order of epoch {epoch}"))?;
            if let Err(error) = fits {
                bail!(
                    "the order of epoch {epoch}: {}, order: {error}",
                    self.sampler.label
                );
            }
            self.current = Some((epoch, order));
        }
        Ok(self.current.as_ref().map_or(&[], |(_, order)| order))
    }

    /// A row was trained and had this loss.
    pub fn learnt(&mut self, row: usize, loss: f64) {
        if let Some(known) = self.losses.get_mut(row) {
            *known = known.and(loss);
        }
    }

    /// What a checkpoint keeps; nothing where a resumed run can ask again. Order and losses go to a file in `dir`.
    ///
    /// # Errors
    /// The sampler failed, or the disk did.
    pub fn save(&self, dir: &Path) -> Result<Option<SamplerState>> {
        let state = self.sampler.component.save_state();
        let state = self.sampler.context("save_state", state)?;
        if state.is_null() && self.is_known_beforehand() {
            return Ok(None);
        }
        let (cpu, mut tensors) = (&Device::Cpu, HashMap::new());
        let losses = || self.losses.iter();
        if let Some((_, order)) = &self.current {
            let order: Vec<u32> = order.iter().map(|&row| row as u32).collect();
            tensors.insert("order", Tensor::new(order, cpu)?);
        }
        if !self.losses.is_empty() {
            let of = |value: fn(&RowLoss) -> f64| losses().map(value).collect::<Vec<f64>>();
            let times: Vec<i64> = losses().map(|loss| loss.times() as i64).collect();
            tensors.insert("last", Tensor::new(of(RowLoss::last), cpu)?);
            tensors.insert("mean", Tensor::new(of(RowLoss::mean), cpu)?);
            tensors.insert("times", Tensor::new(times, cpu)?);
        }
        safetensors::save(&tensors, dir.join(SAMPLER_FILE))
            .with_context(|| format!("{SAMPLER_FILE} cannot be written"))?;
        let epoch = self.current.as_ref().map(|(epoch, _)| *epoch);
        Ok(Some(SamplerState { epoch, state }))
    }

    /// Goes on from what a checkpoint in `dir` keeps.
    ///
    /// # Errors
    /// It keeps nothing although it should, or something else.
    pub fn restore(&mut self, saved: Option<&SamplerState>, dir: &Path) -> Result<()> {
        let label = self.sampler.label.clone();
        let Some(saved) = saved else {
            ensure!(
                self.is_known_beforehand(),
                "it has no losses and no order of {label} ({SAMPLER_FILE}): it was made with another sampler"
            );
            return Ok(());
        };
        let path = dir.join(SAMPLER_FILE);
        let restore = || -> Result<_> {
            let tensors = safetensors::load(&path, &Device::Cpu)?;
            let tensor = |name: &str| tensors.get(name).with_context(|| format!("no {name}"));
            let order = match saved.epoch {
                None => None,
                Some(epoch) => {
                    let order = tensor("order")?.to_vec1::<u32>()?;
                    let order: Vec<usize> = order.into_iter().map(|row| row as usize).collect();
                    let fits = order.iter().all(|&row| row < self.table.tokens.len());
                    ensure!(
                        fits && order.len() == self.length,
                        "the order is one of other rows"
                    );
                    Some((epoch, order))
                }
            };
            let mut losses = Vec::new();
            if !self.losses.is_empty() {
                let last = tensor("last")?.to_vec1::<f64>()?;
                let mean = tensor("mean")?.to_vec1::<f64>()?;
                let times = tensor("times")?.to_vec1::<i64>()?;
                let count = self.losses.len();
                ensure!(
                    [last.len(), mean.len(), times.len()] == [count; 3],
                    "the losses are those of other rows"
                );
                let all = last.into_iter().zip(mean).zip(times);
                losses.extend(all.map(|((last, mean), times)| {
                    RowLoss::new(last, mean, u64::try_from(times).unwrap_or(0))
                }));
            }
            Ok((order, losses))
        };
        let (order, losses) = restore().with_context(|| path.display().to_string())?;
        (self.current, self.losses) = (order, losses);
        if !saved.state.is_null() {
            let loaded = self.sampler.component.load_state(saved.state.clone());
            self.sampler.context("load_state", loaded)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows with the greatest losses first, and then as often as it was asked the first row.
    struct Hard(usize);

    impl Sampler for Hard {
        fn epoch_length(&self, epoch: &Epoch) -> apus_sdk::Result<usize> {
            Ok(epoch.len() + 1)
        }

        fn order(&mut self, epoch: &Epoch) -> apus_sdk::Result<Vec<usize>> {
            self.0 += 1;
            let loss = |row: &usize| epoch.row(*row).loss().map_or(0.0, |loss| loss.last());
            let mut order = epoch.in_order();
            order.sort_by(|a, b| loss(b).total_cmp(&loss(a)));
            order.push(self.0 - 1);
            Ok(order)
        }

        fn save_state(&self) -> apus_sdk::Result<Value> {
            Ok(self.0.into())
        }

        fn load_state(&mut self, saved: Value) -> apus_sdk::Result<()> {
            self.0 = saved.as_u64().ok_or("a number")? as usize;
            Ok(())
        }
    }

    fn row(tokens: usize, channel: &str) -> Encoded {
        Encoded {
            input_ids: vec![1; tokens],
            channel: (!channel.is_empty()).then(|| channel.to_owned()),
            ..Encoded::default()
        }
    }

    fn sampling() -> Sampling {
        let rows = [row(3, "a"), row(5, ""), row(4, "b")];
        let table = RowTable::new(&rows, None, (&[], Vec::new()));
        let hard: Box<dyn Sampler> = Box::new(Hard(0));
        let named = Named::new("sampler hard", hard).with(&[Need::Losses]);
        Sampling::new(named, table, 42, (1, 2)).unwrap()
    }

    #[test]
    fn a_checkpoint_within_an_epoch_has_its_order_and_the_losses_since() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = sampling();
        assert_eq!(whole.epoch_length(), 4);
        assert_eq!(whole.order(0).unwrap(), [0, 1, 2, 0]);
        whole.learnt(2, 5.0);
        whole.learnt(1, 7.0);
        whole.learnt(1, 1.0);
        let saved = whole.save(dir.path()).unwrap();
        let mut rest = sampling();
        rest.restore(saved.as_ref(), dir.path()).unwrap();
        // The order of this epoch was made before there were losses.
        assert_eq!(rest.order(0).unwrap(), [0, 1, 2, 0]);
        for sampling in [&mut whole, &mut rest] {
            assert_eq!(sampling.order(1).unwrap(), [2, 1, 0, 1]);
        }
        let error = sampling().restore(None, dir.path()).unwrap_err();
        assert!(
            format!("{error:#}").contains("no losses and no order"),
            "{error:#}"
        );
        std::fs::write(dir.path().join(SAMPLER_FILE), "x").unwrap();
        let error = sampling().restore(saved.as_ref(), dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains(SAMPLER_FILE), "{error:#}");
    }

    #[test]
    fn packed_rows_have_what_their_samples_have_in_common() {
        let rows = [row(3, "a"), row(5, ""), row(4, "a"), row(1, "b")];
        let packs = [vec![0, 2], vec![3, 1]];
        let names = vec!["x".to_owned(), "y".to_owned()];
        let table = RowTable::new(&rows, Some(&packs), (&[0, 1, 1, 1], names));
        assert_eq!(table.tokens, [7, 6]);
        assert_eq!(table.datasets, [NONE, 1]);
        assert_eq!(table.channels, [0, NONE]);
        assert_eq!(table.channel_names, ["a", "b"]);

        let mut rows = rows;
        let values = [
            r#"{"x": 1, "y": 0}"#,
            r#"{"x": 2}"#,
            r#"{"x": 1}"#,
            r#"{"y": 0}"#,
        ];
        let names = ["x".to_owned()];
        for (row, value) in rows.iter_mut().zip(values) {
            row.keep_columns(value, &names).unwrap();
        }
        let columns = |packs| {
            let mut table = RowTable::new(&rows, packs, (&[], Vec::new()));
            table.add_columns(&names, &rows, packs);
            Value::from_iter(
                table
                    .columns
                    .into_iter()
                    .map(|(name, column)| (name, Value::from(column))),
            )
        };
        assert_eq!(columns(None), serde_json::json!({"x": [1, 2, 1, null]}));
        assert_eq!(columns(Some(&packs)), serde_json::json!({"x": [1, null]}));
    }
}
