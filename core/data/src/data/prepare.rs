//! Records to encoded samples, on all cores, with a report.

use super::{
    channels, empty,
    file::{Record, RowLocation},
    format::Formats,
    pack::pack,
    report::{Packing, Report, SourceReport},
    truncate::{Truncated, Truncation, truncate},
    unused,
};
use crate::chat::jinja::OverBudget;
use crate::chat::scale::ScaleFailed;
use crate::chat::{Encoded, Encoder, RowNotes};
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::{Converted, DatasetFormat, Sample};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const TOO_LONG: &str = "longer than max_length";
const UNTRAINED: &str = "no trained token";
const NO_SAMPLE: &str = "the format gave no sample";
const BAD_ROW: &str = "bad row";
const EMPTY_ANSWER: &str = "empty answer; --keep_empty_answers true trains such rows";

/// How rows are prepared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PrepareOptions {
    /// The most tokens of a sample; `None` is without limit.
    pub max_length: Option<usize>,
    /// What happens to longer ones.
    pub truncation: Truncation,
    /// Stop at the first row that is bad or too long, in place of dropping it, or of which something is not
    /// used.
    pub strict: bool,
    /// Threads to work with; `None` is one for each core.
    pub workers: Option<usize>,
    /// The highest token id of the model plus one, to check tokenised rows against.
    pub vocabulary: Option<usize>,
    /// Whether answers without any text are trained.
    pub keep_empty_answers: bool,
    /// Whether channels are names of numbers in a log, so that a row whose channel cannot be one is bad.
    pub channel_names: bool,
}

/// Samples ready for training, in the order of the records.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Encoded>,
    /// For each sample, the record that it came from.
    pub records: Vec<usize>,
    /// For each sample, where that record stands.
    pub locations: Vec<RowLocation>,
    /// Packed rows, each the numbers of its samples; `None` if samples are not packed.
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

/// What became of one record.
pub(super) struct Outcome {
    /// Its samples.
    pub result: RowResult,
    /// What of it was not used; `None` where its format does not say.
    pub unused: Option<Vec<String>>,
}

/// What became of the samples of one record.
pub(super) enum RowResult {
    /// Its samples, whole or cut, what was done to them on the way, and the tokens of the longest before it
    /// was cut.
    Samples(Vec<PreparedSample>, RowNotes, usize),
    /// The row is bad.
    Bad(anyhow::Error),
}

/// What became of one sample.
pub(super) enum PreparedSample {
    /// It is kept as it is.
    Whole(Encoded),
    /// It is kept, and was cut.
    Cut(Encoded),
    /// A part of a sample that was split; the first says what became of the rest.
    Part(Encoded, Option<SplitRemainder>),
    /// It is not kept, and why; its length.
    Dropped(&'static str, usize),
}

/// What of a split sample is not trained.
pub(super) struct SplitRemainder {
    /// Parts without a trained token, which are not kept.
    idle: usize,
    /// Trained tokens with which a part begins: nothing is left to predict them from.
    first: usize,
}

/// Encodes records. `progress` is called from all threads with the number of records done so far.
///
/// # Errors
/// Malformed JSON; columns that no format recognises; with `strict` (or the strategy `raise`) the
/// first bad (or too long) row; nothing left to train on.
pub fn prepare(
    records: &[Record],
    formats: &Formats,
    encoder: &Encoder,
    options: &PrepareOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Dataset> {
    let chosen = choose(records, formats)?;
    let done = AtomicUsize::new(0);
    let one = |record: &Record| -> Result<Outcome> {
        let format = chosen
            .get(&record.source)
            .context("a file without a format")?;
        let outcome = outcome(record, format.1, encoder, options)?;
        progress(1 + done.fetch_add(1, Ordering::Relaxed));
        Ok(outcome)
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.workers.unwrap_or(0))
        .build()
        .context("starting the threads that prepare the dataset")?;
    let outcomes: Vec<Result<Outcome>> = pool.install(|| records.par_iter().map(one).collect());

    let mut dataset = Dataset::default();
    let mut tally = Tally::default();
    for (index, (record, outcome)) in records.iter().zip(outcomes).enumerate() {
        let format = chosen[&record.source].0;
        for sample in tally.take(record, format, outcome?, options)? {
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

/// The error of a dataset of which nothing is left, with all reasons.
pub(super) fn nothing_left(report: &Report, options: &PrepareOptions) -> anyhow::Error {
    let rows = report.total(|source| source.rows);
    let mut message = format!("nothing to train on: none of {rows} rows is left");
    let untrained = report.sources.iter().find_map(|source| {
        let dropped = source.dropped.get(UNTRAINED)?;
        dropped.first.first()
    });
    if let Some((_, place)) = untrained {
        message = format!(
            "{message}. Rows without a trained token, the first of them {place}: either the loss \
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
    /// What was dropped and has not been said yet, as far as locations are remembered.
    pub new_warnings: Vec<String>,
}

impl Tally {
    /// The samples of a record that are kept.
    ///
    /// # Errors
    /// A row that is bad or too long, where that stops everything.
    pub fn take(
        &mut self,
        record: &Record,
        format: &str,
        outcome: Outcome,
        options: &PrepareOptions,
    ) -> Result<Vec<Encoded>> {
        let at = match self
            .sources
            .iter()
            .position(|s| *s.source == *record.source)
        {
            Some(at) => at,
            None => {
                self.sources.push(SourceReport {
                    source: record.source.to_string(),
                    format: format.to_owned(),
                    ..SourceReport::default()
                });
                self.sources.len() - 1
            }
        };
        let source = &mut self.sources[at];
        source.rows += 1;
        for column in empty::cells(record) {
            *source.empty_cells.entry(column).or_default() += 1;
        }
        let new_warnings = source.unused.count(record.line, outcome.unused.as_deref());
        if options.strict {
            refuse_unused(record, outcome.unused.as_deref())?;
        }
        let new_warnings = new_warnings
            .into_iter()
            .map(|name| format!("{record}: not used: {name}"));
        self.new_warnings.extend(new_warnings);
        let samples = match outcome.result {
            RowResult::Bad(error) if options.strict => {
                return Err(error.context(format!("{record}: bad row (strict)")));
            }
            RowResult::Bad(error) => {
                self.drop(at, record.line, BAD_ROW, format!("{record}: {error:#}"));
                return Ok(Vec::new());
            }
            RowResult::Samples(samples, notes, longest) => {
                source.longest = source.longest.max(longest);
                self.notes += notes;
                samples
            }
        };
        if samples.is_empty() {
            self.drop(at, record.line, NO_SAMPLE, record.to_string());
        }
        let stop_at_long = options.strict || options.truncation == Truncation::Raise;
        let mut kept = Vec::with_capacity(samples.len());
        for sample in samples {
            let source = &mut self.sources[at];
            match sample {
                PreparedSample::Dropped(TOO_LONG, length) if stop_at_long => bail!(
                    "{record}: {length} tokens, {TOO_LONG} {}; raise it, or let \
                     truncation_strategy delete or cut such rows (without strict)",
                    options.max_length.unwrap_or(length)
                ),
                PreparedSample::Dropped(EMPTY_ANSWER, _) => {
                    self.drop(at, record.line, EMPTY_ANSWER, record.to_string());
                }
                PreparedSample::Dropped(reason, length) => {
                    self.drop(
                        at,
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
                        source.idle_parts += split.idle;
                        source.untrained_firsts += split.first;
                    }
                    kept.push(sample);
                }
            }
        }
        for sample in &kept {
            self.sources[at].keep(sample);
        }
        Ok(kept)
    }

    fn drop(&mut self, at: usize, line: usize, reason: &'static str, detail: String) {
        let new_warnings = format!("{detail}; left out ({reason})");
        if self.sources[at].drop_row(reason, line, detail) {
            self.new_warnings.push(new_warnings);
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

/// With strict, what a row has has to be used.
fn refuse_unused(record: &Record, unused: Option<&[String]>) -> Result<()> {
    match unused.unwrap_or_default() {
        [] => Ok(()),
        names => bail!(
            "{record}: not used: {} (strict); take it out of the data, or give it the name of what it is",
            names.join(", ")
        ),
    }
}

/// What each record became, not encoded, or what is wrong with it: for inference. Malformed JSON is its row's error
/// too; the first row of a file that can be read chooses its format.
///
/// # Errors
/// Columns that no format recognises, or a format that panics.
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
        if !chosen.contains_key(&record.source) {
            let format = formats.choose(&row).with_context(|| record.to_string())?;
            chosen.insert(Arc::clone(&record.source), format);
        }
        let (_, format) = chosen[&record.source];
        all.push(match convert(record, format)? {
            Ok(converted) if converted.samples.is_empty() => Err(anyhow!("{record}: {NO_SAMPLE}")),
            Ok(converted) => Ok(converted),
            Err(error) => Err(error.context(record.to_string())),
        });
    }
    Ok(all)
}

type ChosenFormats<'a> = BTreeMap<Arc<str>, (&'a str, &'a dyn DatasetFormat)>;

/// The format of each file, by its first row here.
fn choose<'a>(records: &[Record], formats: &'a Formats) -> Result<ChosenFormats<'a>> {
    let mut chosen = ChosenFormats::new();
    for record in records {
        if !chosen.contains_key(&record.source) {
            let row = record.row()?;
            let format = formats.choose(&row).with_context(|| record.to_string())?;
            chosen.insert(Arc::clone(&record.source), format);
        }
    }
    Ok(chosen)
}

/// The samples of a record, or why its row is bad. The format reads the row's text itself; what is no
/// row at all stops everything, with file and line, and so does a format that panics.
fn convert(record: &Record, format: &dyn DatasetFormat) -> Result<Result<Converted>> {
    match format.convert_text_noting(&record.text) {
        Ok(converted) => Ok(Ok(converted)),
        Err(error) if error.panicked() => Err(anyhow!("{record}: {error}")),
        Err(error) => {
            record.row()?;
            Ok(Err(anyhow!("{error}")))
        }
    }
}

/// Formats and encodes a record.
///
/// # Errors
/// What stops everything: text that is no row, a component that failed.
pub(super) fn outcome(
    record: &Record,
    format: &dyn DatasetFormat,
    encoder: &Encoder,
    options: &PrepareOptions,
) -> Result<Outcome> {
    Ok(match convert(record, format)? {
        Ok(Converted { samples, unread }) => Outcome {
            result: encode(&samples, encoder, options).with_context(|| record.to_string())?,
            unused: unread.map(|unread| unused::names(&unread, &samples, encoder.template())),
        },
        Err(error) => Outcome {
            result: RowResult::Bad(error),
            unused: Some(Vec::new()),
        },
    })
}

/// A loss scale or a template that fails stops everything: the row is not to blame.
fn encode(samples: &[Sample], encoder: &Encoder, options: &PrepareOptions) -> Result<RowResult> {
    let mut prepared = Vec::with_capacity(samples.len());
    let (mut notes, mut longest) = (RowNotes::default(), 0);
    for sample in samples {
        if let Sample::Conversation(conversation) = sample
            && !options.keep_empty_answers
            && empty::answer(conversation).is_some()
        {
            prepared.push(PreparedSample::Dropped(EMPTY_ANSWER, 0));
            continue;
        }
        match encode_one(sample, encoder, options, &mut prepared) {
            Ok((noted, length)) => {
                notes += noted;
                longest = longest.max(length);
            }
            Err(error) if error.is::<ScaleFailed>() || error.is::<OverBudget>() => {
                return Err(error);
            }
            Err(error) => return Ok(RowResult::Bad(error)),
        }
    }
    Ok(RowResult::Samples(prepared, notes, longest))
}

fn encode_one(
    sample: &Sample,
    encoder: &Encoder,
    options: &PrepareOptions,
    prepared: &mut Vec<PreparedSample>,
) -> Result<(RowNotes, usize)> {
    let (encoded, notes) = encoder.encode_with_notes(sample)?;
    let length = encoded.len();
    if let Some(vocabulary) = options.vocabulary {
        let ids = encoded.input_ids.iter().map(|id| i64::from(*id));
        let mut all = ids.chain(encoded.labels.iter().copied());
        if let Some(id) = all.find(|id| *id >= vocabulary as i64) {
            bail!("token id {id} is not in the model's vocabulary of {vocabulary}");
        }
    }
    if options.channel_names {
        channels::check(encoded.channel.as_deref())?;
    }
    let targets = encoded.targets();
    let trained = |encoded: &Encoded| encoded.targets() > 0;
    prepared.push(
        match truncate(encoded, options.max_length, options.truncation) {
            Truncated::Dropped(length) => PreparedSample::Dropped(TOO_LONG, length),
            Truncated::Whole(encoded) if trained(&encoded) => PreparedSample::Whole(encoded),
            Truncated::Cut(encoded) if trained(&encoded) => PreparedSample::Cut(encoded),
            Truncated::Whole(encoded) | Truncated::Cut(encoded) => {
                PreparedSample::Dropped(UNTRAINED, encoded.len())
            }
            Truncated::Parts(parts) => {
                let (parts, idle): (Vec<_>, Vec<_>) = parts.into_iter().partition(trained);
                let left: usize = parts.iter().map(Encoded::targets).sum();
                let mut split = Some(SplitRemainder {
                    idle: idle.len(),
                    first: targets - left,
                });
                if parts.is_empty() {
                    prepared.push(PreparedSample::Dropped(UNTRAINED, length));
                }
                let parts = parts.into_iter();
                prepared.extend(parts.map(|part| PreparedSample::Part(part, split.take())));
                return Ok((notes, length));
            }
        },
    );
    Ok((notes, length))
}
