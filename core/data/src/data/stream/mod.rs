//! Data larger than memory: rows are read, shuffled, prepared and handed out one after another.
//!
//! A thread reads rows through a shuffle buffer and deals them out in small batches to a few workers,
//! which convert and encode them; the batches are collected in the same turn. All queues
//! are short, so that memory is bounded for files of any size, and the order is a function of the
//! seed alone. At the end of the data the next pass begins, in another order. An example is a sample, or a packed row of
//! samples.

mod buffer;
mod packing;
mod passes;
mod workers;

use super::{
    cache::Fingerprint,
    columns::Columns,
    file::{self, Record},
    format::{Formats, format_key},
    interleave::Mix,
    named::{self, OpenedDataset},
    prepare::{PrepareOptions, Tally, nothing_left},
    report::{Packing, Report},
};
use crate::chat::{Encoded, Encoder, RowNoteTexts};
use anyhow::{Context, Result, ensure};
use apus_base::checksums;
use apus_components::config::DatasetSpec;
use apus_sdk::Options;
use packing::Packer;
use serde_json::{Value, json};
use std::{collections::VecDeque, path::PathBuf, sync::Arc};
use workers::{PreparedBatch, Workers};

/// What is streamed, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// The datasets; `#N` takes the first N rows.
    pub dataset: Vec<DatasetSpec>,
    /// Options for datasets that are components and have options of these names.
    pub dataset_options: Options,
    /// How datasets are mixed; without it they follow one after another.
    pub mix: Option<Mix>,
    /// New names of columns, as [`Columns::new`] takes them.
    pub columns: Value,
    /// The number of rows among which the next one is drawn; `None` keeps the order of the files.
    pub shuffle_buffer: Option<usize>,
    /// The seed of the order.
    pub data_seed: u64,
    /// The number of tokens of the rows that samples are packed into; `None` does not pack them.
    pub packing: Option<usize>,
    /// How rows are prepared; [`PrepareOptions::workers`] threads do it.
    pub prepare: PrepareOptions,
}

/// What the threads share.
struct StreamPlan {
    options: StreamOptions,
    sets: Vec<DatasetEntry>,
    columns: Columns,
    formats: Arc<Formats>,
    encoder: Arc<Encoder>,
}

/// One entry of `dataset`.
struct DatasetEntry {
    opened: OpenedDataset,
    /// The rows that its component makes.
    made: Vec<Record>,
    first: Option<usize>,
    /// Its own new names of columns.
    columns: Option<Columns>,
    /// The format that it names.
    format: Option<Arc<str>>,
}

impl StreamPlan {
    /// The new names of the columns of a dataset.
    fn columns_of(&self, set: usize) -> &Columns {
        self.sets[set].columns.as_ref().unwrap_or(&self.columns)
    }

    /// The new names of columns of all datasets.
    fn all_columns(&self) -> impl Iterator<Item = &Columns> {
        let own = self.sets.iter().filter_map(|set| set.columns.as_ref());
        std::iter::once(&self.columns).chain(own)
    }
}

/// Prepared examples without end: pass after pass over the data.
pub struct Stream {
    plan: Arc<StreamPlan>,
    identity: String,
    content: Value,
    workers: Option<Workers>,
    pass: u64,
    /// The number of examples of this pass so far.
    pass_examples: u64,
    ready: VecDeque<Vec<Encoded>>,
    packer: Option<Packer>,
    tally: Tally,
    /// How well the first pass was packed.
    packed: Option<Packing>,
    warn: Box<dyn Fn(&str)>,
}

impl Stream {
    /// Finds the files; rows are read from the first call of [`Self::next_example`] on. `warn` gets warnings about rows as they
    /// are found, and at the end of the data.
    ///
    /// # Errors
    /// A file is missing or of an unknown type, or options do not fit.
    pub fn open(
        options: StreamOptions,
        formats: Arc<Formats>,
        encoder: Arc<Encoder>,
        warn: Box<dyn Fn(&str)>,
    ) -> Result<Self> {
        if let Some(mix) = &options.mix {
            mix.check(options.dataset.len())?;
        }
        ensure!(
            options.shuffle_buffer != Some(0),
            "shuffle_buffer_size is 0, expected 1 or more rows"
        );
        let mut sets = Vec::new();
        let mut sizes = Vec::new();
        for spec in &options.dataset {
            let opened = named::open(spec.parts()?, &options.dataset_options);
            let opened = opened.with_context(|| format!("dataset `{spec}`"))?;
            let parts = opened.parts.clone();
            let made = opened.made().with_context(|| format!("dataset `{spec}`"))?;
            if let Some(rows) = &made {
                sizes.push(format!("{} ({} rows made)", parts.name, rows.len()));
            }
            for path in &opened.files {
                drop(file::open(path)?);
                let size = std::fs::metadata(path).with_context(|| path.display().to_string())?;
                sizes.push(format!("{} ({} bytes)", path.display(), size.len()));
            }
            sets.push(DatasetEntry {
                made: made.unwrap_or_default(),
                opened,
                first: parts.rows,
                columns: match parts.columns.is_null() {
                    true => None,
                    false => Some(
                        Columns::new(&parts.columns)
                            .with_context(|| format!("dataset `{spec}`"))?,
                    ),
                },
                format: parts.format.as_ref().map(format_key),
            });
        }
        let identity = identity(&options, &sizes);
        let content = content(&options, &sets)?;
        let packer = options.packing.map(Packer::new);
        let plan = Arc::new(StreamPlan {
            columns: Columns::new(&options.columns)?,
            sets,
            formats,
            encoder,
            options,
        });
        Ok(Self {
            plan,
            identity,
            content,
            workers: None,
            pass: 0,
            pass_examples: 0,
            ready: VecDeque::new(),
            packer,
            tally: Tally::default(),
            packed: None,
            warn,
        })
    }

    /// What the order of examples depends on, as text: two streams with the same text give the same examples.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What the examples come from: the names of the files, and a hash over their contents and the order in which rows are
    /// taken. It does not depend on the folders that they lie in.
    pub fn content(&self) -> &Value {
        &self.content
    }

    /// The samples of the next example: one, or those of a packed row.
    ///
    /// # Errors
    /// A file cannot be read, text is not a row, a row is bad (with `strict`), or a pass gave nothing to train on.
    pub fn next_example(&mut self) -> Result<Vec<Encoded>> {
        loop {
            if let Some(example) = self.ready.pop_front() {
                return Ok(example);
            }
            self.next_batch()?;
        }
    }

    /// The first sample of the next example, which stays the next one.
    pub fn peek(&mut self) -> Result<&Encoded> {
        let example = self.next_example()?;
        self.ready.push_front(example);
        let first = self.ready.front().and_then(|example| example.first());
        first.context("a sample")
    }

    /// What became of the rows so far; only the first pass is counted.
    pub fn report(&self) -> Report {
        let now = self.packer.as_ref().map(|packer| &packer.figures);
        Report {
            packing: self.packed.as_ref().or(now).cloned(),
            ..self.tally.report(&self.plan.encoder)
        }
    }

    /// What the dialect of the conversations says of changed rows.
    pub fn row_note_texts(&self) -> &'static RowNoteTexts {
        self.plan.encoder.dialect().row_notes()
    }

    /// Waits for the next batch of rows.
    fn next_batch(&mut self) -> Result<()> {
        let pass = self.pass;
        let workers = match &mut self.workers {
            Some(workers) => workers,
            None => self.workers.insert(Workers::start(&self.plan, pass)?),
        };
        let rows = match workers.next()? {
            PreparedBatch::Rows(rows) => rows,
            PreparedBatch::End => return self.end_of_pass(),
        };
        for (read, outcome) in rows {
            let mut uncounted = Tally::default();
            let tally = match pass {
                0 => &mut self.tally,
                _ => &mut uncounted,
            };
            let options = &self.plan.options.prepare;
            for sample in tally.add(&read.record, &read.format, outcome, options)? {
                let examples = match &mut self.packer {
                    Some(packer) => packer.push(sample),
                    None => vec![vec![sample]],
                };
                self.pass_examples += examples.len() as u64;
                self.ready.extend(examples);
            }
        }
        for line in self.plan.all_columns().flat_map(Columns::clash_warnings) {
            (self.warn)(&line);
        }
        for line in self.tally.new_warnings.drain(..) {
            (self.warn)(&line);
        }
        Ok(())
    }

    fn end_of_pass(&mut self) -> Result<()> {
        if let Some(packer) = &mut self.packer {
            let rest = packer.finish();
            self.pass_examples += rest.len() as u64;
            self.ready.extend(rest);
            self.packed.get_or_insert_with(|| packer.figures.clone());
        }
        if self.pass_examples == 0 {
            return Err(nothing_left(&self.report(), &self.plan.options.prepare));
        }
        if self.pass == 0 {
            let report = self.report();
            for columns in self.plan.all_columns() {
                let unused = columns.unused_warnings(&report);
                for line in columns.absent_warnings().iter().chain(&unused) {
                    (self.warn)(line);
                }
            }
            let examples = self.pass_examples;
            (self.warn)(&format!(
                "the {examples} examples of the stream are through, and another pass over it begins"
            ));
        }
        self.workers = None;
        self.pass += 1;
        self.pass_examples = 0;
        Ok(())
    }
}

fn content(options: &StreamOptions, sets: &[DatasetEntry]) -> Result<Value> {
    let StreamOptions {
        mix,
        columns,
        shuffle_buffer,
        packing,
        prepare,
        ..
    } = options;
    let PrepareOptions {
        max_length,
        truncation,
        ..
    } = prepare;
    let files = || sets.iter().flat_map(|set| &set.opened.files);
    let of_sets: Vec<_> = sets
        .iter()
        .map(|set| (set.opened.files.len(), set.first))
        .collect();
    let mut order = Fingerprint::blank();
    order.text(&checksums::sampled(files().map(PathBuf::as_path))?);
    let empty = empty_answers(prepare);
    order.text(&format!(
        "{of_sets:?} {mix:?} {columns} {shuffle_buffer:?} {packing:?} {max_length:?} {truncation:?}{empty}"
    ));
    for spec in &options.dataset {
        let parts = spec.parts()?;
        if parts.format.is_some() || !parts.columns.is_null() {
            order.text(&json!([parts.format, parts.columns]).to_string());
        }
    }
    for set in sets {
        set.made.iter().for_each(|row| order.text(&row.text));
    }
    if !options.dataset_options.is_empty() {
        order.text(&json!(options.dataset_options).to_string());
    }
    let names = files().filter_map(|path| path.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    Ok(json!({ "stream of": names.join(", "), "sha256": order.hex() }))
}

/// A text that says that empty answers are kept, if they are.
fn empty_answers(prepare: &PrepareOptions) -> &'static str {
    match prepare.keep_empty_answers {
        true => ", empty answers kept",
        false => "",
    }
}

fn identity(options: &StreamOptions, files: &[String]) -> String {
    let StreamOptions {
        dataset,
        dataset_options,
        mix,
        columns,
        shuffle_buffer,
        data_seed,
        packing,
        prepare,
    } = options;
    let PrepareOptions {
        max_length,
        truncation,
        ..
    } = prepare;
    let empty = empty_answers(prepare);
    let filled = match dataset_options.is_empty() {
        true => String::new(),
        false => format!("{}, ", json!(dataset_options)),
    };
    let packed = packing.map_or(String::new(), |tokens| format!("packing {tokens}, "));
    format!(
        "dataset {}, {filled}{mix:?}, columns {columns}, shuffle_buffer {shuffle_buffer:?}, data_seed {data_seed}, \
         max_length {max_length:?}, truncation {truncation:?}{empty}, {packed}files {}",
        json!(dataset),
        files.join(", ")
    )
}
