//! Which rows a run uses: several files, `path#N` sampling, and the part kept for evaluation.

use super::{
    file::{self, Record},
    rng::Shuffle,
};
use crate::hub::Hub;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Streams of the data seed.
const TRAIN: u64 = 0;
const VAL: u64 = 1;
const SPLIT: u64 = 2;

/// Where rows come from.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceOptions {
    /// Files or ids to train on, each with `#N` after it for N rows.
    pub dataset: Vec<String>,
    /// Files to evaluate on. With any, nothing is split off the training set.
    pub val_dataset: Vec<String>,
    /// The share of the training rows that is kept for evaluation, 0 to 1.
    pub split_dataset_ratio: f64,
    /// Whether the training rows are shuffled (and `#N` samples at random).
    pub dataset_shuffle: bool,
    /// Whether the evaluation rows are shuffled.
    pub val_dataset_shuffle: bool,
    /// The seed of all of this.
    pub data_seed: u64,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            dataset: Vec::new(),
            val_dataset: Vec::new(),
            split_dataset_ratio: 0.0,
            dataset_shuffle: true,
            val_dataset_shuffle: false,
            data_seed: 42,
        }
    }
}

/// The rows of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sets {
    /// To train on.
    pub train: Vec<Record>,
    /// To evaluate on; may be empty.
    pub val: Vec<Record>,
    /// Whether `val` was split off the training set.
    pub val_is_split: bool,
}

/// Reads, samples, splits and shuffles.
///
/// # Errors
/// A file that cannot be read, a `#N` that is no number, a ratio outside 0 to 1, or no rows.
pub fn read_sets(options: &SourceOptions) -> Result<Sets> {
    let ratio = options.split_dataset_ratio;
    ensure!(
        (0.0..=1.0).contains(&ratio),
        "split_dataset_ratio must be between 0 and 1, found {ratio}"
    );
    let seed = options.data_seed;
    let mut train = read_all(&options.dataset, options.dataset_shuffle, seed, TRAIN)?;
    let mut val = read_all(&options.val_dataset, options.val_dataset_shuffle, seed, VAL)?;
    let val_is_split = val.is_empty() && ratio > 0.0 && !train.is_empty();
    if val_is_split {
        (train, val) = split(train, ratio, options.dataset_shuffle, seed);
    }
    if options.dataset_shuffle {
        Shuffle::new(seed, TRAIN + 4).shuffle(&mut train);
    }
    if options.val_dataset_shuffle {
        Shuffle::new(seed, VAL + 4).shuffle(&mut val);
    }
    Ok(Sets {
        train,
        val,
        val_is_split,
    })
}

fn read_all(specs: &[String], shuffle: bool, seed: u64, stream: u64) -> Result<Vec<Record>> {
    let mut random = Shuffle::new(seed, stream);
    let mut all = Vec::new();
    for spec in specs {
        let (path, count) = parse(spec)?;
        let mut records = Vec::new();
        for file in Hub::from_environment().dataset(path)? {
            records.extend(file::read(&file)?);
        }
        match count {
            None => all.extend(records),
            Some(count) => {
                let picked = sample(records.len(), count, shuffle, &mut random);
                all.extend(picked.into_iter().map(|i| records[i].clone()));
            }
        }
    }
    Ok(all)
}

/// `path#N`; a file whose name holds a `#` comes first.
fn parse(spec: &str) -> Result<(&str, Option<usize>)> {
    match spec.rsplit_once('#') {
        Some((path, count)) if !Path::new(spec).exists() => {
            let count = count.parse::<usize>().with_context(|| {
                format!("dataset `{spec}`: expected a number of rows after `#`, found `{count}`")
            })?;
            ensure!(count > 0, "dataset `{spec}`: `#0` leaves no rows");
            Ok((path, Some(count)))
        }
        _ => Ok((spec, None)),
    }
}

/// ms-swift's rule: fewer rows than there are, a random choice (the first ones without shuffling);
/// more, the whole set as often as it fits, then a random choice for the rest.
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

/// Takes `max(1, rows * ratio)` rows for evaluation: at random, or the last ones without shuffling.
/// Both parts stay in the order of the files.
fn split(rows: Vec<Record>, ratio: f64, shuffle: bool, seed: u64) -> (Vec<Record>, Vec<Record>) {
    let n = rows.len();
    let count = ((n as f64 * ratio) as usize).clamp(1, n);
    let mut for_val = vec![false; n];
    if shuffle {
        let chosen = Shuffle::new(seed, SPLIT).permutation(n);
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
            dataset: vec![spec],
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
            dataset: vec![path.clone()],
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
    fn a_val_dataset_replaces_the_split() {
        let (_dir, path) = write(3);
        let sets = read_sets(&SourceOptions {
            dataset: vec![path.clone()],
            val_dataset: vec![format!("{path}#1")],
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
