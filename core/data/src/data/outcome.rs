//! What becomes of rows: a format converts them, the loss scales weigh their texts, the encoder tokenises them, what is too
//! long is cut.
//!
//! Where the way to a format or to a scale is long, rows go it together.

use super::{
    channels, empty,
    file::Record,
    not_text,
    prepare::{EMPTY_ANSWER, PrepareOptions, TOO_LONG, UNTRAINED},
    truncate::{Truncated, truncate},
    unused,
};
use crate::chat::jinja::OverBudget;
use crate::chat::scale::ScaleFailed;
use crate::chat::{Encoded, Encoder, Folds, OfRow, RowNotes};
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::{Converted, DatasetFormat, Sample};

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
    pub untrained_parts: usize,
    /// The number of tokens that would be trained if no part began with them: nothing is left to predict them from.
    pub untrained_firsts: usize,
}

/// Converts a record to samples, or says why its row is bad. The format reads the row's text itself.
///
/// # Errors
/// The text is not a row at all, or the format panics: either stops everything.
pub(super) fn convert(record: &Record, format: &dyn DatasetFormat) -> Result<Result<Converted>> {
    judged(record, format.convert_text_noting(&record.text))
}

/// Converts records; those of one format that stand side by side go together.
fn convert_all(rows: &[(&Record, &dyn DatasetFormat)]) -> Vec<Result<Result<Converted>>> {
    let is_same =
        |a: &(_, &dyn DatasetFormat), b: &(_, &dyn DatasetFormat)| std::ptr::addr_eq(a.1, b.1);
    let mut all = Vec::with_capacity(rows.len());
    for rows in rows.chunk_by(is_same) {
        let texts: Vec<&str> = rows
            .iter()
            .map(|(record, _)| record.text.as_str())
            .collect();
        let found = match rows {
            [(_, format), ..] if format.takes_batches() => format.convert_texts_noting(&texts),
            rows => {
                let convert = |(record, format): &(&Record, &dyn DatasetFormat)| {
                    format.convert_text_noting(&record.text)
                };
                rows.iter().map(convert).collect()
            }
        };
        let records = rows.iter().map(|(record, _)| record);
        all.extend(
            records
                .zip(found)
                .map(|(record, found)| judged(record, found)),
        );
    }
    all
}

/// What a format has made of a record.
fn judged(record: &Record, found: apus_sdk::Result<Converted>) -> Result<Result<Converted>> {
    match found {
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

/// Converts and encodes records, each with its format. Each has its outcome, or the error of what stops everything: the text
/// is not a row, or a component fails.
pub(super) fn outcomes(
    rows: &[(&Record, &dyn DatasetFormat)],
    encoder: &Encoder,
    options: &PrepareOptions,
) -> Vec<Result<Outcome>> {
    let converted = convert_all(rows);
    let mut weighed = match encoder.scales().takes_batches() {
        true => {
            let whole = rows
                .iter()
                .zip(&converted)
                .filter_map(|((record, _), row)| {
                    let converted = row.as_ref().ok()?.as_ref().ok()?;
                    Some(
                        converted
                            .samples
                            .iter()
                            .map(|sample| (sample, record.text.as_str())),
                    )
                });
            encoder.weigh_together(&whole.flatten().collect::<Vec<_>>())
        }
        false => Vec::new(),
    }
    .into_iter();
    let rows = rows.iter().zip(converted);
    let outcomes = rows.map(|((record, _), converted)| match converted? {
        Ok(Converted { samples, unread }) => {
            let folds: Vec<Folds> = weighed.by_ref().take(samples.len()).collect();
            Ok(Outcome {
                result: encode(&samples, encoder, options, &record.text, &folds)
                    .with_context(|| record.to_string())?,
                unused: unread.map(|unread| {
                    let mut unused = unused::names(&unread, &samples, encoder.template());
                    unused.retain(|name| !options.columns.contains(name));
                    unused
                }),
            })
        }
        Err(error) => Ok(Outcome {
            result: RowResult::Bad(error),
            unused: Some(Vec::new()),
        }),
    });
    outcomes.collect()
}

/// Encodes the samples of a row; `weighed` holds their texts, if those were weighed together with others.
///
/// # Errors
/// A loss scale or a template fails: this stops everything, since it is not the row's mistake.
fn encode(
    samples: &[Sample],
    encoder: &Encoder,
    options: &PrepareOptions,
    text: &str,
    weighed: &[Folds],
) -> Result<RowResult> {
    let mut prepared = Vec::with_capacity(samples.len());
    let (mut notes, mut longest) = (RowNotes::default(), 0);
    for (i, sample) in samples.iter().enumerate() {
        if let Sample::Conversation(conversation) = sample
            && !options.keep_empty_answers
            && empty::answer(conversation).is_some()
        {
            prepared.push(PreparedSample::Dropped(EMPTY_ANSWER, 0));
            continue;
        }
        let row = OfRow {
            text,
            folds: weighed.get(i),
        };
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
    (sample, row): (&Sample, OfRow),
    encoder: &Encoder,
    options: &PrepareOptions,
    prepared: &mut Vec<PreparedSample>,
) -> Result<(RowNotes, usize)> {
    let (mut encoded, notes) = encoder.encode_row(sample, row)?;
    encoded.keep_columns(row.text, &options.columns)?;
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
