//! What a run trains on: examples in memory, in the order of each epoch, or a stream of them. An example is a
//! sample, or a packed row of samples.

use super::row_loss::RowSums;
use super::sampling::{SamplerState, Sampling};
use super::settings::Settings;
use super::state::{StreamState, TrainerState};
use super::steps::Steps;
use crate::host::RunView;
use anyhow::{Result, ensure};
use apus_base::lines::info;
use apus_base::signals;
use apus_data::chat::Encoded;
use apus_data::data::Stream;
use apus_data::data::cache::Fingerprint;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

/// Where examples come from.
pub struct Examples<'a> {
    source: Source<'a>,
}

enum Source<'a> {
    Memory {
        rows: &'a [Encoded],
        /// The rows of each example, where they are packed.
        packs: Option<&'a [Vec<usize>]>,
        /// Their order.
        sampling: Box<Sampling>,
    },
    Stream {
        stream: Box<Stream>,
        taken: u64,
        /// A hash over what was taken: each example is hashed together with what came before.
        chain: String,
    },
}

/// An example of a step.
pub struct Example<'a> {
    /// Ids, labels, weights of its samples: one, or those of a pack.
    pub rows: Vec<Cow<'a, Encoded>>,
    /// Which it is: its place in memory or in the stream.
    pub number: usize,
}

impl Example<'_> {
    /// Its tokens.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.len()).sum()
    }

    /// Its supervised tokens. The first token of a sequence has nothing before it that could predict it.
    pub fn supervised(&self) -> usize {
        let labels = self.rows.iter().flat_map(|row| row.labels.iter().skip(1));
        labels.filter(|label| **label >= 0).count()
    }
}

impl<'a> Examples<'a> {
    /// Examples in memory: samples as they are, or packed; each pack lists the samples that one example holds.
    pub fn in_memory(
        rows: &'a [Encoded],
        packs: Option<&'a [Vec<usize>]>,
        sampling: Sampling,
    ) -> Self {
        let sampling = Box::new(sampling);
        let source = Source::Memory {
            rows,
            packs,
            sampling,
        };
        Self { source }
    }

    /// Examples as they come.
    pub fn streamed(stream: Stream) -> Self {
        let source = Source::Stream {
            stream: Box::new(stream),
            taken: 0,
            chain: String::new(),
        };
        Self { source }
    }

    /// Examples in an epoch. A stream has none, so that the whole run is one, as in transformers.
    ///
    /// # Errors
    /// A stream without `max_steps`.
    pub fn of_epoch(&self, settings: &Settings) -> Result<usize> {
        match (&self.source, settings.max_steps) {
            (Source::Memory { sampling, .. }, _) => Ok(sampling.epoch_length()),
            (Source::Stream { .. }, steps) => {
                ensure!(
                    steps.is_some(),
                    "streaming needs max_steps: the length of the data is not known"
                );
                let of_step =
                    settings.per_device_train_batch_size * settings.gradient_accumulation_steps;
                Ok(steps.unwrap_or(0) as usize * of_step)
            }
        }
    }

    /// The micro-batches of a step, as one process makes them.
    pub fn of_step(
        &mut self,
        step: u64,
        steps: &Steps,
        settings: &Settings,
    ) -> Result<Vec<Vec<Example<'a>>>> {
        let (size, batches) = (settings.per_device_train_batch_size, steps.batches_of(step));
        match &mut self.source {
            Source::Memory {
                rows,
                packs,
                sampling,
            } => {
                let (rows, packs) = (*rows, *packs);
                let example = |&number: &usize| Example {
                    rows: match packs {
                        None => vec![Cow::Borrowed(&rows[number])],
                        Some(packs) => {
                            let samples = packs[number].iter();
                            samples.map(|&row| Cow::Borrowed(&rows[row])).collect()
                        }
                    },
                    number,
                };
                let order = sampling.order(steps.epoch_of(step))?;
                let groups = order.chunks(size).skip(batches.start).take(batches.len());
                Ok(groups
                    .map(|numbers| numbers.iter().map(example).collect())
                    .collect())
            }
            Source::Stream {
                stream,
                taken,
                chain,
            } => {
                let mut group = |_| {
                    let mut examples = Vec::with_capacity(size);
                    for _ in 0..size {
                        let rows = next(stream, chain)?.into_iter();
                        examples.push(Example {
                            rows: rows.map(Cow::Owned).collect(),
                            number: *taken as usize,
                        });
                        *taken += 1;
                    }
                    Ok(examples)
                };
                batches.map(&mut group).collect()
            }
        }
    }

    /// Whether its length is not known.
    pub fn is_streamed(&self) -> bool {
        matches!(self.source, Source::Stream { .. })
    }

    /// What a resumed run must train on too: the examples in memory, or the files that a stream reads.
    pub fn content(&self) -> Value {
        match &self.source {
            Source::Memory {
                rows,
                packs,
                sampling,
            } => json!({
                "examples": sampling.tokens().len(),
                "tokens": sampling.tokens().iter().map(|&tokens| u64::from(tokens)).sum::<u64>(),
                "sha256": digest(rows, *packs),
            }),
            Source::Stream { stream, .. } => stream.content().clone(),
        }
    }

    /// What a checkpoint keeps: examples in memory, and what is known of a stream.
    pub fn state(&self) -> (usize, Option<StreamState>) {
        match &self.source {
            Source::Memory { sampling, .. } => (sampling.tokens().len(), None),
            Source::Stream {
                stream,
                taken,
                chain,
            } => {
                let state = StreamState {
                    order: stream.identity().to_owned(),
                    taken: *taken,
                    sha256: chain.clone(),
                };
                (0, Some(state))
            }
        }
    }

    /// Gives the run to the sampler.
    ///
    /// # Errors
    /// It failed.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        match &mut self.source {
            Source::Memory { sampling, .. } => sampling.begin(view),
            Source::Stream { .. } => Ok(()),
        }
    }

    /// Whether the losses of examples are asked for.
    pub fn asks_for_losses(&self) -> bool {
        match &self.source {
            Source::Memory { sampling, .. } => sampling.asks_for_losses(),
            Source::Stream { .. } => false,
        }
    }

    /// A step over these micro-batches is made, in which examples had these losses, if they are collected.
    pub fn learnt(&mut self, groups: &[Vec<Example>], losses: &RowSums) {
        if let Source::Memory { sampling, .. } = &mut self.source {
            let numbers: Vec<usize> = groups.iter().flatten().map(|one| one.number).collect();
            for (place, loss) in losses.means() {
                sampling.learnt(numbers[place], loss);
            }
        }
    }

    /// What a checkpoint keeps of the order; the larger part goes to a file in `dir`.
    ///
    /// # Errors
    /// The sampler failed, or the disk did.
    pub fn save_order(&self, dir: &Path) -> Result<Option<SamplerState>> {
        match &self.source {
            Source::Memory { sampling, .. } => sampling.save(dir),
            Source::Stream { .. } => Ok(None),
        }
    }

    /// Moves to where the checkpoint in `dir` was made. A stream skips what it gave until then.
    ///
    /// # Errors
    /// Other data than the checkpoint's.
    pub fn resume(&mut self, saved: &TrainerState, dir: &Path) -> Result<()> {
        match (&mut self.source, &saved.stream) {
            (Source::Memory { sampling, .. }, None) => {
                let examples = sampling.tokens().len();
                ensure!(
                    saved.train_examples == examples,
                    "it was made with {} training examples, this run has {}: the order of the data \
                     would differ; use the same dataset and split",
                    saved.train_examples,
                    examples
                );
                sampling.restore(saved.sampler.as_ref(), dir)?;
            }
            (
                Source::Stream {
                    stream,
                    taken,
                    chain,
                },
                Some(state),
            ) => {
                // From version 1 on the terms have been compared, which do not ask where a file lies.
                ensure!(
                    saved.version > 0 || stream.identity() == state.order,
                    "the order of the streamed data would differ; it was made with\n  {}\nand this run has\n  {}",
                    state.order,
                    stream.identity()
                );
                if state.taken > 0 {
                    info!("streaming: passing over the first {} examples", state.taken);
                }
                for _ in 0..state.taken {
                    signals::check()?;
                    next(stream, chain)?;
                }
                ensure!(
                    saved.version == 0 || *chain == state.sha256,
                    "the first {} examples of the stream are others than those that it was trained on",
                    state.taken
                );
                *taken = state.taken;
            }
            (Source::Memory { .. }, Some(_)) => {
                anyhow::bail!("it was made with --streaming true, this run has its data in memory")
            }
            (Source::Stream { .. }, None) => {
                anyhow::bail!("it was made with data in memory, this run has --streaming true")
            }
        }
        Ok(())
    }

    /// What became of a stream's rows, and what is to be said about them.
    pub fn streamed_report(&self) -> Option<(String, Vec<String>)> {
        match &self.source {
            Source::Memory { .. } => None,
            Source::Stream { stream, .. } => {
                let report = stream.report();
                let texts = stream.row_note_texts();
                let notes = report.notes(texts).into_iter();
                let table = notes.fold(report.to_string(), |table, note| table + "\n" + &note);
                let mut warnings = report.warnings();
                warnings.extend(report.row_notes.warning(texts));
                Some((table, warnings))
            }
        }
    }
}

/// The next example of a stream, whose hash goes into the chain.
fn next(stream: &mut Stream, chain: &mut String) -> Result<Vec<Encoded>> {
    let rows = stream.next_example()?;
    let mut link = Fingerprint::blank();
    link.text(chain);
    rows.iter().for_each(|row| link.text(&of_row(row)));
    *chain = link.hex();
    Ok(rows)
}

/// A hash over rows, and which of them are packed together.
pub fn digest(rows: &[Encoded], packs: Option<&[Vec<usize>]>) -> String {
    let of_rows: Vec<String> = rows.par_iter().map(of_row).collect();
    let mut all = Fingerprint::blank();
    of_rows.iter().for_each(|hash| all.text(hash));
    for pack in packs.into_iter().flatten() {
        all.text(&format!("{pack:?}"));
    }
    all.hex()
}

fn of_row(row: &Encoded) -> String {
    let mut hash = Fingerprint::blank();
    let ids = row.input_ids.iter().flat_map(|id| id.to_le_bytes());
    hash.text(&row.input_ids.len().to_string());
    hash.bytes(&ids.collect::<Vec<u8>>());
    let labels = row.labels.iter().flat_map(|label| label.to_le_bytes());
    hash.bytes(&labels.collect::<Vec<u8>>());
    let weights = row.weights.iter().flat_map(|weight| weight.to_le_bytes());
    hash.bytes(&weights.collect::<Vec<u8>>());
    if let Some(columns) = &row.columns {
        hash.text(columns);
    }
    hash.hex()
}
