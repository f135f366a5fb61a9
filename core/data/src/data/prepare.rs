//! Turns records into encoded samples on all cores, and reports what was dropped and why.

use super::{
    empty,
    file::{Record, RowLocation},
    format::Formats,
    outcome::{Outcome, PreparedSample, RowResult, convert, outcomes},
    pack::pack,
    report::{Packing, Report, SourceReport},
    truncate::Truncation,
};
use crate::chat::{Encoded, Encoder, RowNotes};
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::{Converted, DatasetFormat};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(super) const TOO_LONG: &str = "longer than max_length";
pub(super) const UNTRAINED: &str = "no trained token";
const NO_SAMPLE: &str = "the format gave no sample";
const BAD_ROW: &str = "bad row";
pub(super) const EMPTY_ANSWER: &str = "empty answer; --keep_empty_answers true trains such rows";

/// How many rows are prepared together where a component takes batches.
const TOGETHER: usize = 64;

/// How rows are prepared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PrepareOptions {
    /// The most tokens of a sample; `None` sets no limit.
    pub max_length: Option<usize>,
    /// What happens to longer samples.
    pub truncation: Truncation,
    /// Whether the first row that is bad or too long, or of which something is not used, stops everything. Otherwise bad
    /// and long rows are dropped.
    pub strict: bool,
    /// The number of threads; `None` takes one for each core.
    pub workers: Option<usize>,
    /// The highest token id of the model plus one, to check tokenised rows against.
    pub vocabulary: Option<usize>,
    /// Whether answers without any text are trained.
    pub keep_empty_answers: bool,
    /// Whether channels are names of numbers in a log, so that a row whose channel cannot be one is bad.
    pub channel_names: bool,
    /// The columns of rows that are kept with their tokens, since the loss reads them.
    pub columns: Vec<String>,
}

/// Samples ready for training, in the order of the records.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Encoded>,
    /// For each sample, the index of its record.
    pub records: Vec<usize>,
    /// For each sample, the location of its record.
    pub locations: Vec<RowLocation>,
    /// For each packed row, the numbers of its samples; `None` if samples are not packed.
    pub packs: Option<Vec<Vec<usize>>>,
    /// What became of the rows.
    pub report: Report,
}

impl Dataset {
    /// Packs the samples into rows of `max_length` tokens.
    pub fn pack(&mut self, max_length: usize) {
        let lengths: Vec<usize> = self.samples.iter().map(Encoded::len).collect();
        let packs = pack(&lengths, max_length);
        self.report.packing = Some(Packing {
            rows: packs.len(),
            samples: lengths.len(),
            tokens: lengths.iter().sum(),
            max_length,
        });
        self.packs = Some(packs);
    }
}

/// Encodes records. `progress` is called from all threads with the number of records done so far.
///
/// # Errors
/// A row is malformed JSON, no format recognises its columns, a row is bad or too long where that stops everything (`strict`,
/// the strategy `raise`), or nothing is left to train on.
pub fn prepare(
    records: &[Record],
    formats: &Formats,
    encoder: &Encoder,
    options: &PrepareOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Dataset> {
    let chosen = choose(records, formats)?;
    let done = AtomicUsize::new(0);
    let in_batches = encoder.scales().takes_batches()
        || chosen.values().any(|(_, format)| format.takes_batches());
    let together = if in_batches { TOGETHER } else { 1 };
    let prepare_some = |records: &[Record]| -> Vec<Result<Outcome>> {
        let rows = records.iter().map(|record| {
            let format = chosen.get(&of(record)).context("a file without a format")?;
            Ok((record, format.1))
        });
        let outcomes = match rows.collect::<Result<Vec<_>>>() {
            Ok(rows) => outcomes(&rows, encoder, options),
            Err(error) => vec![Err(error)],
        };
        for _ in records {
            progress(1 + done.fetch_add(1, Ordering::Relaxed));
        }
        outcomes
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.workers.unwrap_or(0))
        .build()
        .context("starting the threads that prepare the dataset")?;
    let outcomes: Vec<Vec<Result<Outcome>>> =
        pool.install(|| records.par_chunks(together).map(prepare_some).collect());

    let mut dataset = Dataset::default();
    let mut tally = Tally::default();
    let outcomes = outcomes.into_iter().flatten();
    for (index, (record, outcome)) in records.iter().zip(outcomes).enumerate() {
        let format = chosen[&of(record)].0;
        for sample in tally.add(record, format, outcome?, options)? {
            dataset.samples.push(sample);
            dataset.records.push(index);
            dataset.locations.push(record.location());
        }
    }
    dataset.report = tally.report(encoder);
    if dataset.samples.is_empty() {
        return Err(nothing_left(&dataset.report, options));
    }
    Ok(dataset)
}

/// The error of a dataset of which nothing is left, with the reasons.
pub(super) fn nothing_left(report: &Report, options: &PrepareOptions) -> anyhow::Error {
    let rows = report.total(|source| source.rows);
    let mut message = format!("nothing to train on: none of {rows} rows is left");
    let untrained = report.sources.iter().find_map(|source| {
        let dropped = source.dropped.get(UNTRAINED)?;
        dropped.first.first()
    });
    if let Some((_, location)) = untrained {
        message = format!(
            "{message}. Rows without a trained token, the first of them {location}: either the loss \
             scale weighs everything 0, or every message of the assistant says `loss: false`, or \
             truncation (max_length {}) cuts the answers off",
            options
                .max_length
                .map_or("none".to_owned(), |max| max.to_string())
        );
    }
    for line in report.warnings() {
        message = format!("{message}\n{line}");
    }
    anyhow!(message)
}

/// Counts what becomes of rows, in their order.
#[derive(Default)]
pub(super) struct Tally {
    sources: Vec<SourceReport>,
    notes: RowNotes,
    /// Warnings about dropped rows and unused names that were not given yet, as far as locations are remembered.
    pub new_warnings: Vec<String>,
}

impl Tally {
    /// Counts what became of a record and returns its samples that are kept.
    ///
    /// # Errors
    /// The row is bad or too long, or something of it is not used, where that stops everything.
    pub fn add(
        &mut self,
        record: &Record,
        format: &str,
        outcome: Outcome,
        options: &PrepareOptions,
    ) -> Result<Vec<Encoded>> {
        let index = match self
            .sources
            .iter()
            .position(|s| *s.source == *record.source && s.format == format)
        {
            Some(index) => index,
            None => {
                self.sources.push(SourceReport {
                    source: record.source.to_string(),
                    format: format.to_owned(),
                    ..SourceReport::default()
                });
                self.sources.len() - 1
            }
        };
        let source = &mut self.sources[index];
        source.rows += 1;
        for column in empty::cells(record) {
            *source.empty_cells.entry(column).or_default() += 1;
        }
        let new_names = source.unused.count(record.line, outcome.unused.as_deref());
        if options.strict {
            refuse_unused(record, outcome.unused.as_deref())?;
        }
        let warnings = new_names
            .into_iter()
            .map(|name| format!("{record}: not used: {name}"));
        self.new_warnings.extend(warnings);
        let samples = match outcome.result {
            RowResult::Bad(error) if options.strict => {
                return Err(error.context(format!("{record}: bad row (strict)")));
            }
            RowResult::Bad(error) => {
                self.drop(index, record.line, BAD_ROW, format!("{record}: {error:#}"));
                return Ok(Vec::new());
            }
            RowResult::Samples(samples, notes, longest) => {
                source.longest = source.longest.max(longest);
                self.notes += notes;
                samples
            }
        };
        if samples.is_empty() {
            self.drop(index, record.line, NO_SAMPLE, record.to_string());
        }
        let stop_at_long = options.strict || options.truncation == Truncation::Raise;
        let mut kept = Vec::with_capacity(samples.len());
        for sample in samples {
            let source = &mut self.sources[index];
            match sample {
                PreparedSample::Dropped(TOO_LONG, length) if stop_at_long => bail!(
                    "{record}: {length} tokens, {TOO_LONG} {}; raise it, or let \
                     truncation_strategy delete or cut such rows (without strict)",
                    options.max_length.unwrap_or(length)
                ),
                PreparedSample::Dropped(EMPTY_ANSWER, _) => {
                    self.drop(index, record.line, EMPTY_ANSWER, record.to_string());
                }
                PreparedSample::Dropped(reason, length) => {
                    self.drop(
                        index,
                        record.line,
                        reason,
                        format!("{record}: {length} tokens"),
                    );
                }
                PreparedSample::Whole(sample) => kept.push(sample),
                PreparedSample::Cut(sample) => {
                    source.truncated += 1;
                    kept.push(sample);
                }
                PreparedSample::Part(sample, split) => {
                    source.parts += 1;
                    if let Some(split) = split {
                        source.split += 1;
                        source.idle_parts += split.untrained_parts;
                        source.untrained_firsts += split.untrained_firsts;
                    }
                    kept.push(sample);
                }
            }
        }
        for sample in &kept {
            self.sources[index].keep(sample);
        }
        Ok(kept)
    }

    fn drop(&mut self, index: usize, line: usize, reason: &'static str, detail: String) {
        let warning = format!("{detail}; left out ({reason})");
        if self.sources[index].drop_row(reason, line, detail) {
            self.new_warnings.push(warning);
        }
    }

    /// What became of the rows so far.
    pub fn report(&self, encoder: &Encoder) -> Report {
        let unmatched = encoder.scales().unmatched();
        Report {
            sources: self.sources.clone(),
            unmatched_scales: unmatched.into_iter().map(str::to_owned).collect(),
            row_notes: self.notes,
            packing: None,
        }
    }
}

/// Refuses a row of which something is not used, as `strict` demands.
fn refuse_unused(record: &Record, unused: Option<&[String]>) -> Result<()> {
    match unused.unwrap_or_default() {
        [] => Ok(()),
        names => bail!(
            "{record}: not used: {} (strict); take it out of the data, or give it the name of what it is",
            names.join(", ")
        ),
    }
}

/// The samples of each record, not encoded, or the error of its row: for inference. Malformed JSON is an error of its row,
/// too; the first row of a file that can be read chooses its format.
///
/// # Errors
/// No format recognises the columns of a file, or a format panics.
pub fn converted(records: &[Record], formats: &Formats) -> Result<Vec<Result<Converted>>> {
    let mut chosen = ChosenFormats::new();
    let mut all = Vec::with_capacity(records.len());
    for record in records {
        let row = match record.row() {
            Ok(row) => row,
            Err(error) => {
                all.push(Err(error));
                continue;
            }
        };
        let (_, format) = match chosen.entry(of(record)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(formats.choose(record, &row)?),
        };
        all.push(match convert(record, format)? {
            Ok(converted) if converted.samples.is_empty() => Err(anyhow!("{record}: {NO_SAMPLE}")),
            Ok(converted) => Ok(converted),
            Err(error) => Err(error.context(record.to_string())),
        });
    }
    Ok(all)
}

type ChosenFormats<'a> = BTreeMap<FormatPlace, (&'a str, &'a dyn DatasetFormat)>;

/// What has one format: a file, as far as it belongs to datasets that name the same format.
type FormatPlace = (Arc<str>, Option<Arc<str>>);

fn of(record: &Record) -> FormatPlace {
    (Arc::clone(&record.source), record.format.clone())
}

/// Chooses the format of each file by its first row among the records.
fn choose<'a>(records: &[Record], formats: &'a Formats) -> Result<ChosenFormats<'a>> {
    let mut chosen = ChosenFormats::new();
    for record in records {
        if let Entry::Vacant(new) = chosen.entry(of(record)) {
            new.insert(formats.choose(record, &record.row()?)?);
        }
    }
    Ok(chosen)
}
