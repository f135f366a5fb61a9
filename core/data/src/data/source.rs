//! Chooses the rows of a run: reads its datasets, samples `path#N` of them, splits a part off for evaluation, and mixes the
//! rest.

use super::{
    columns::Columns,
    file::{self, Record},
    format::format_key,
    interleave::{Interleaved, Mix, OpenDataset, RowIter},
    named,
    reads::Reads,
    rng::Shuffle,
};
use anyhow::{Context, Result, ensure};
use apus_components::config::DatasetSpec;
use apus_sdk::Options;
use rayon::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// The stream of the data seed that samples training rows; the one that shuffles them follows four later.
const TRAIN: u64 = 0;
/// The stream that samples evaluation rows; the one that shuffles them follows four later.
const VAL: u64 = 1;
/// The stream that chooses the rows to split off.
const SPLIT: u64 = 2;
/// The stream that mixes datasets.
pub const MIX: u64 = 3;

/// Which rows a run uses.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceOptions {
    /// The training data.
    pub dataset: Vec<DatasetSpec>,
    /// Options for datasets that are components and have options of these names.
    pub dataset_options: Options,
    /// The evaluation data. If there is any, nothing is split off the training set.
    pub val_dataset: Vec<DatasetSpec>,
    /// The share of the training rows that is split off for evaluation, 0 to 1.
    pub split_dataset_ratio: f64,
    /// How the training datasets are mixed; without it they follow one after another.
    pub mix: Option<Mix>,
    /// New names of columns, as [`Columns::new`] takes them.
    pub columns: Value,
    /// Whether the training rows are shuffled, and `#N` samples at random.
    pub dataset_shuffle: bool,
    /// Whether the evaluation rows are shuffled.
    pub val_dataset_shuffle: bool,
    /// The seed of everything random here.
    pub data_seed: u64,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            dataset: Vec::new(),
            dataset_options: Options::new(),
            val_dataset: Vec::new(),
            split_dataset_ratio: 0.0,
            mix: None,
            columns: Value::Null,
            dataset_shuffle: true,
            val_dataset_shuffle: false,
            data_seed: 42,
        }
    }
}

/// A file, and columns of it that were not read.
pub type LeftOut = (Arc<str>, Vec<String>);

/// The rows of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sets {
    /// The rows to train on.
    pub train: Vec<Record>,
    /// The rows to evaluate on; may be empty.
    pub val: Vec<Record>,
    /// Whether `val` was split off the training set.
    pub val_is_split: bool,
    /// The files of the rows, in the order in which they were named.
    pub files: Vec<Arc<str>>,
    /// Of the training rows' files, the place of the dataset in which each was named first.
    pub datasets: Vec<(Arc<str>, usize)>,
    /// Columns of files that were not decoded, since nobody reads them.
    pub left_out: Vec<LeftOut>,
    /// Warnings about renamed columns.
    pub warnings: Vec<String>,
}

/// Reads the rows of a run, then samples, splits, mixes and shuffles them.
///
/// # Errors
/// A file cannot be read or has no rows, a `#N` is not a number, the ratio is outside 0 to 1, or the probabilities or the
/// names of columns do not fit.
pub fn read_sets(options: &SourceOptions) -> Result<Sets> {
    read_needed_sets(options, None)
}

/// As [`read_sets`], without the columns of files that nobody `reads`, as far as this is known.
///
/// # Errors
/// As of [`read_sets`]; a format failed.
pub fn read_needed_sets(options: &SourceOptions, reads: Option<&Reads>) -> Result<Sets> {
    let ratio = options.split_dataset_ratio;
    ensure!(
        (0.0..=1.0).contains(&ratio),
        "split_dataset_ratio must be between 0 and 1, found {ratio}"
    );
    if let Some(mix) = &options.mix {
        mix.check(options.dataset.len())?;
    }
    let columns = Columns::new(&options.columns)?;
    let seed = options.data_seed;
    let shuffle = options.dataset_shuffle;
    let (mut warnings, mut left_out) = (Vec::new(), Vec::new());
    let mut read = |specs: &[DatasetSpec], shuffle, stream| {
        let mut random = Shuffle::new(seed, stream);
        let read = specs.iter().map(|spec| {
            let rows = read_one(
                spec,
                &options.dataset_options,
                &columns,
                shuffle,
                &mut random,
                (reads, &mut left_out),
                &mut warnings,
            );
            rows.with_context(|| format!("dataset `{spec}`"))
        });
        read.collect::<Result<Vec<_>>>()
    };
    let mut sets = read(&options.dataset, shuffle, TRAIN)?;
    let datasets = sets.iter().enumerate();
    let datasets = datasets
        .flat_map(|(place, set)| files_of(set).into_iter().map(move |file| (file, place)))
        .collect();
    let val_shuffle = options.val_dataset_shuffle;
    let val = read(&options.val_dataset, val_shuffle, VAL)?;
    let files = sets.iter().chain(&val).flat_map(|set| files_of(set));
    let files: Vec<Arc<str>> = files.collect();
    let mut val: Vec<Record> = val.into_iter().flatten().collect();
    let val_is_split = val.is_empty() && ratio > 0.0 && !sets.is_empty();
    if val_is_split {
        let mut random = Shuffle::new(seed, SPLIT);
        for set in &mut sets {
            let (train, mut part) = split(std::mem::take(set), ratio, shuffle, &mut random);
            *set = train;
            val.append(&mut part);
        }
    }
    let mut train = match &options.mix {
        Some(mix) => interleave(&sets, mix, seed)?,
        None => sets.into_iter().flatten().collect(),
    };
    if shuffle {
        Shuffle::new(seed, TRAIN + 4).shuffle(&mut train);
    }
    if val_shuffle {
        Shuffle::new(seed, VAL + 4).shuffle(&mut val);
    }
    Ok(Sets {
        train,
        val,
        val_is_split,
        files,
        datasets,
        left_out,
        warnings: [
            columns.clash_warnings(),
            columns.absent_warnings(),
            warnings,
        ]
        .concat(),
    })
}

/// Reads the rows of a dataset. Its own new names of columns hold in place of those of the run; warnings about them are added.
fn read_one(
    spec: &DatasetSpec,
    options: &Options,
    columns: &Columns,
    shuffle: bool,
    random: &mut Shuffle,
    (reads, left_out): (Option<&Reads>, &mut Vec<LeftOut>),
    warnings: &mut Vec<String>,
) -> Result<Vec<Record>> {
    let dataset = named::open(spec.parts()?, options)?;
    let parts = &dataset.parts;
    let own = match parts.columns.is_null() {
        true => None,
        false => Some(Columns::new(&parts.columns)?),
    };
    let format = parts.format.as_ref().map(format_key);
    let mut records = dataset.made()?.unwrap_or_default();
    let columns = own.as_ref().unwrap_or(columns);
    let needed = |names: &[&str]| match reads.filter(|_| !dataset.is_changing()) {
        Some(reads) => reads.needed(format.as_ref(), columns, names),
        None => Ok(None),
    };
    for path in &dataset.files {
        let (read, without) = file::read_needed(path, &needed)?;
        if let (false, Some(first)) = (without.is_empty(), read.first()) {
            left_out.push((Arc::clone(&first.source), without));
        }
        let changed = read.into_par_iter().map(|record| dataset.change(record));
        records.extend(changed.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    }
    ensure!(!records.is_empty(), "its component leaves all rows out");
    if let Some(count) = parts.rows {
        let picked = sample(records.len(), count, shuffle, random);
        records = picked.into_iter().map(|i| records[i].clone()).collect();
    }
    if !columns.is_empty() {
        let renamed = records.into_par_iter().map(|record| columns.apply(record));
        records = renamed.collect::<Result<_>>()?;
    }
    if let Some(own) = &own {
        let own = [own.clash_warnings(), own.absent_warnings()].concat();
        warnings.extend(own.iter().map(|line| format!("dataset `{spec}`: {line}")));
    }
    for record in &mut records {
        record.format.clone_from(&format);
    }
    Ok(records)
}

/// The files of these rows, in the order of their first rows.
fn files_of(rows: &[Record]) -> Vec<Arc<str>> {
    let mut files: Vec<Arc<str>> = Vec::new();
    for row in rows {
        if files.last() != Some(&row.source) && !files.contains(&row.source) {
            files.push(Arc::clone(&row.source));
        }
    }
    files
}

fn interleave(sets: &[Vec<Record>], mix: &Mix, seed: u64) -> Result<Vec<Record>> {
    let open = sets.iter().enumerate().map(|(set, rows)| {
        let rows = rows.len();
        let indices = move || (0..rows).map(move |row| Ok((set, row)));
        Box::new(move || Ok(Box::new(indices()) as RowIter<_>)) as OpenDataset<(usize, usize)>
    });
    Interleaved::new(open.collect(), mix.clone(), Shuffle::new(seed, MIX))?
        .map(|chosen| chosen.map(|(set, row)| sets[set][row].clone()))
        .collect()
}

/// Samples `count` rows by ms-swift's rule: if there are more, a random choice of them (without shuffling the first ones);
/// if there are fewer, all of them as often as they fit, then such a choice for the rest.
fn sample(rows: usize, count: usize, shuffle: bool, random: &mut Shuffle) -> Vec<usize> {
    let mut picked = Vec::with_capacity(count);
    for _ in 0..count / rows {
        picked.extend(0..rows);
    }
    let rest = count % rows;
    if shuffle {
        picked.extend(random.permutation(rows).into_iter().take(rest));
    } else {
        picked.extend(0..rest);
    }
    picked
}

/// Splits `max(1, rows * ratio)` rows off for evaluation: at random, or the last ones without shuffling. Both parts stay in
/// the order of the files.
fn split(
    rows: Vec<Record>,
    ratio: f64,
    shuffle: bool,
    random: &mut Shuffle,
) -> (Vec<Record>, Vec<Record>) {
    let n = rows.len();
    let count = ((n as f64 * ratio) as usize).clamp(1, n);
    let mut for_val = vec![false; n];
    if shuffle {
        let chosen = random.permutation(n);
        chosen
            .into_iter()
            .take(count)
            .for_each(|i| for_val[i] = true);
    } else {
        for_val[n - count..].fill(true);
    }
    let mut parts = (Vec::with_capacity(n - count), Vec::with_capacity(count));
    for (row, is_val) in rows.into_iter().zip(for_val) {
        if is_val {
            parts.1.push(row);
        } else {
            parts.0.push(row);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(rows: usize) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let text: String = (0..rows).map(|i| format!("{{\"i\": {i}}}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let name = path.display().to_string();
        (dir, name)
    }

    fn read(options: SourceOptions) -> (Vec<usize>, Vec<usize>) {
        let sets = read_sets(&options).unwrap();
        let lines = |records: Vec<Record>| records.into_iter().map(|r| r.line - 1).collect();
        (lines(sets.train), lines(sets.val))
    }

    fn sorted(mut rows: Vec<usize>) -> Vec<usize> {
        rows.sort_unstable();
        rows
    }

    #[test]
    fn sampling_takes_fewer_or_more() {
        let (_dir, path) = write(4);
        let with = |spec: String, dataset_shuffle| SourceOptions {
            dataset: vec![spec.into()],
            dataset_shuffle,
            ..SourceOptions::default()
        };
        assert_eq!(read(with(format!("{path}#2"), false)).0, [0, 1]);
        assert_eq!(
            read(with(format!("{path}#9"), false)).0,
            [0, 1, 2, 3, 0, 1, 2, 3, 0]
        );
        let (few, _) = read(with(format!("{path}#3"), true));
        assert_eq!(few.len(), 3);
        assert_eq!(few, read(with(format!("{path}#3"), true)).0);
        let (many, _) = read(with(format!("{path}#10"), true));
        let counts: Vec<_> = (0..4)
            .map(|i| many.iter().filter(|j| **j == i).count())
            .collect();
        assert!(counts.iter().all(|n| (2..=3).contains(n)), "{counts:?}");
        let bad = read_sets(&with(format!("{path}#x"), true)).unwrap_err();
        assert!(format!("{bad:#}").contains("found `x`"));
    }

    #[test]
    fn a_split_loses_no_row() {
        let (_dir, path) = write(10);
        let with = |ratio, shuffle| SourceOptions {
            dataset: vec![path.clone().into()],
            split_dataset_ratio: ratio,
            dataset_shuffle: shuffle,
            ..SourceOptions::default()
        };
        assert_eq!(read(with(0.25, false)), ((0..8).collect(), vec![8, 9]));
        let (train, val) = read(with(0.25, true));
        assert_eq!((train.len(), val.len()), (8, 2));
        assert_eq!(sorted([train, val].concat()), (0..10).collect::<Vec<_>>());
        assert_eq!(read(with(0.01, true)).1.len(), 1);
        assert_eq!(read(with(1.0, true)).1.len(), 10);
        assert!(read_sets(&with(1.5, true)).is_err());
    }

    #[test]
    fn datasets_are_mixed_by_chance() {
        let (_a, few) = write(5);
        let (_b, many) = write(500);
        let mixed = |stopping, ratio| {
            let options = SourceOptions {
                dataset: vec![few.clone().into(), many.clone().into()],
                mix: Some(Mix {
                    probabilities: vec![0.5, 0.5],
                    stopping,
                }),
                split_dataset_ratio: ratio,
                ..SourceOptions::default()
            };
            let sets = read_sets(&options).unwrap();
            let of = |records: &[Record], name: &str| {
                records.iter().filter(|r| *r.source == *name).count()
            };
            (of(&sets.train, &few), of(&sets.train, &many), sets.val)
        };
        use super::super::interleave::StoppingStrategy;
        let (a, b, _) = mixed(StoppingStrategy::FirstExhausted, 0.0);
        assert!(a == 5 && b < 40, "{a} {b}");
        let (a, b, _) = mixed(StoppingStrategy::AllExhausted, 0.0);
        assert!(a > 400 && b == 500, "{a} {b}");
        let (_, b, val) = mixed(StoppingStrategy::AllExhausted, 0.2);
        assert_eq!((b, val.len()), (400, 101));
        // Validation sets are not mixed.
        let sets = read_sets(&SourceOptions {
            dataset: vec![few.clone().into(), many.clone().into()],
            val_dataset: vec![many.into(), few.into()],
            mix: Some(Mix {
                probabilities: vec![0.5, 0.5],
                stopping: StoppingStrategy::FirstExhausted,
            }),
            ..SourceOptions::default()
        });
        assert_eq!(sets.unwrap().val.len(), 505);
    }

    #[test]
    fn columns_are_renamed_before_anything_else() {
        let (_dir, path) = write(2);
        let sets = read_sets(&SourceOptions {
            dataset: vec![path.into()],
            columns: serde_json::json!({"I": "query", "j": "response"}),
            dataset_shuffle: false,
            ..SourceOptions::default()
        });
        let sets = sets.unwrap();
        assert_eq!(sets.train[1].text, r#"{"query": 1}"#);
        assert_eq!(sets.warnings, ["columns: no row has a column `j`"]);
    }

    #[test]
    fn a_val_dataset_replaces_the_split() {
        let (_dir, path) = write(3);
        let sets = read_sets(&SourceOptions {
            dataset: vec![path.clone().into()],
            val_dataset: vec![format!("{path}#1").into()],
            split_dataset_ratio: 0.5,
            ..SourceOptions::default()
        });
        let sets = sets.unwrap();
        assert_eq!(
            (sets.train.len(), sets.val.len(), sets.val_is_split),
            (3, 1, false)
        );
    }
}
