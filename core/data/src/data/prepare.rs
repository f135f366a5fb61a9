//! Turns records into encoded samples on all cores, and reports what was dropped and why.

use super::{
    channels, empty,
    file::{Record, RowLocation},
    format::Formats,
    not_text,
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
    collections::{BTreeMap, btree_map::Entry},
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

/// What became of one record.
pub(super) struct Outcome {
    /// What became of its samples.
    pub result: RowResult,
    /// The names of what was not used; `None` if its format does not say.
    pub unused: Option<Vec<String>>,
}

/// What became of the samples of one record.
pub(super) enum RowResult {
    /// The samples, what was done to them on the way, and the length of the longest one before it was cut.
    Samples(Vec<PreparedSample>, RowNotes, usize),
    /// The row is bad.
    Bad(anyhow::Error),
}

/// What became of one sample.
pub(super) enum PreparedSample {
    /// It is kept as it is.
    Whole(Encoded),
    /// It was cut and is kept.
    Cut(Encoded),
    /// It was split, and this part is kept; the first part says what is not trained of the sample.
    Part(Encoded, Option<SplitRemainder>),
    /// It is not kept, for this reason; it has so many tokens.
    Dropped(&'static str, usize),
}

/// What is not trained of a split sample.
pub(super) struct SplitRemainder {
    /// The number of parts without a trained token, which are not kept.
    untrained_parts: usize,
    /// The number of tokens that would be trained if no part began with them: nothing is left to predict them from.
    untrained_firsts: usize,
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
    let prepare_one = |record: &Record| -> Result<Outcome> {
        let format = chosen.get(&of(record)).context("a file without a format")?;
        let outcome = outcome(record, format.1, encoder, options)?;
        progress(1 + done.fetch_add(1, Ordering::Relaxed));
        Ok(outcome)
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.workers.unwrap_or(0))
        .build()
        .context("starting the threads that prepare the dataset")?;
    let outcomes: Vec<Result<Outcome>> =
        pool.install(|| records.par_iter().map(prepare_one).collect());

    let mut dataset = Dataset::default();
    let mut tally = Tally::default();
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

/// Converts a record to samples, or says why its row is bad. The format reads the row's text itself.
///
/// # Errors
/// The text is not a row at all, or the format panics: either stops everything.
fn convert(record: &Record, format: &dyn DatasetFormat) -> Result<Result<Converted>> {
    match format.convert_text_noting(&record.text) {
        Ok(converted) => {
            let unread = converted.unread.as_deref().unwrap_or_default();
            let fault = not_text::fault(record, unread);
            Ok(fault.map_or(Ok(converted), |fault| Err(anyhow!(fault))))
        }
        Err(error) if error.panicked() => Err(anyhow!("{record}: {error}")),
        Err(error) => {
            record.row()?;
            let bytes = not_text::places(record).into_iter().next();
            let bytes = bytes
                .map(|(path, shown)| format!("; `{path}` holds bytes that are no text ({shown})"));
            Ok(Err(anyhow!("{error}{}", bytes.unwrap_or_default())))
        }
    }
}

/// Converts and encodes a record.
///
/// # Errors
/// What stops everything: the text is not a row, or a component fails.
pub(super) fn outcome(
    record: &Record,
    format: &dyn DatasetFormat,
    encoder: &Encoder,
    options: &PrepareOptions,
) -> Result<Outcome> {
    Ok(match convert(record, format)? {
        Ok(Converted { samples, unread }) => Outcome {
            result: encode(&samples, encoder, options, &record.text)
                .with_context(|| record.to_string())?,
            unused: unread.map(|unread| {
                let mut unused = unused::names(&unread, &samples, encoder.template());
                unused.retain(|name| !options.columns.contains(name));
                unused
            }),
        },
        Err(error) => Outcome {
            result: RowResult::Bad(error),
            unused: Some(Vec::new()),
        },
    })
}

/// Encodes the samples of a row.
///
/// # Errors
/// A loss scale or a template fails: this stops everything, since it is not the row's mistake.
fn encode(
    samples: &[Sample],
    encoder: &Encoder,
    options: &PrepareOptions,
    row: &str,
) -> Result<RowResult> {
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
        match encode_one((sample, row), encoder, options, &mut prepared) {
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
    (sample, row): (&Sample, &str),
    encoder: &Encoder,
    options: &PrepareOptions,
    prepared: &mut Vec<PreparedSample>,
) -> Result<(RowNotes, usize)> {
    let (mut encoded, notes) = encoder.encode_row(sample, row)?;
    encoded.keep_columns(row, &options.columns)?;
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
                let (parts, untrained): (Vec<_>, Vec<_>) = parts.into_iter().partition(trained);
                let kept_targets: usize = parts.iter().map(Encoded::targets).sum();
                let mut split = Some(SplitRemainder {
                    untrained_parts: untrained.len(),
                    untrained_firsts: targets - kept_targets,
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
