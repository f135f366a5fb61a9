//! The threads of one pass: one reads, a few prepare, and short queues connect them.

use super::{
    StreamPlan,
    passes::{self, ReadRow},
};
use crate::data::empty;
use crate::data::outcome::{Outcome, outcomes};
use anyhow::{Context, Error, Result};
use std::{
    sync::Arc,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// The most rows of a batch.
const ROWS: usize = 32;
/// The number of bytes of text at which a batch is full.
const BYTES: usize = 1 << 18;
/// The number of batches that wait before and after each worker.
const QUEUE: usize = 2;
/// The most workers, unless a number is given: training needs cores, too.
const MOST_WORKERS: usize = 8;

/// What the reader sends to a worker.
enum Work {
    Rows(Vec<ReadRow>),
    Failed(Error),
    End,
}

/// What a worker sends back.
pub enum PreparedBatch {
    /// Rows, without their text, and what became of them.
    Rows(Vec<(ReadRow, Outcome)>),
    /// The pass is over.
    End,
}

/// The threads of a pass; they end when this is dropped.
pub struct Workers {
    done: Vec<Receiver<Result<PreparedBatch>>>,
    turn: usize,
}

impl Workers {
    /// Starts the threads.
    pub fn start(plan: &Arc<StreamPlan>, pass: u64) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let default = (cores / 2).clamp(1, MOST_WORKERS);
        let count = plan.options.prepare.workers.unwrap_or(default).max(1);
        let (mut work, mut done) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (to_worker, from_reader) = sync_channel(QUEUE);
            let (to_run, from_worker) = sync_channel(QUEUE);
            let plan = Arc::clone(plan);
            spawn("data-worker", move || prepare(&plan, &from_reader, &to_run))?;
            work.push(to_worker);
            done.push(from_worker);
        }
        let plan = Arc::clone(plan);
        spawn("data-reader", move || read(&plan, pass, &work))?;
        Ok(Self { done, turn: 0 })
    }

    /// Waits for the next batch in the order of reading.
    ///
    /// # Errors
    /// The reader or a worker failed.
    pub fn next(&mut self) -> Result<PreparedBatch> {
        let from = &self.done[self.turn];
        self.turn = (self.turn + 1) % self.done.len();
        from.recv()
            .context("a thread that prepares data ended before its time")?
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .context("starting the threads that prepare the dataset")?;
    Ok(())
}

/// Deals batches of rows out to the workers in turn, until all are read or the receivers are gone.
fn read(plan: &Arc<StreamPlan>, pass: u64, work: &[SyncSender<Work>]) {
    let mut turn = work.iter().cycle();
    let mut send = |item| turn.next().is_some_and(|to| to.send(item).is_ok());
    let rows = match passes::rows(plan, pass) {
        Ok(rows) => rows,
        Err(error) => {
            send(Work::Failed(error));
            return;
        }
    };
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for row in rows {
        match row {
            Ok(row) => {
                bytes += row.record.text.len();
                batch.push(row);
            }
            Err(error) => {
                let _ = send(Work::Rows(batch)) && send(Work::Failed(error));
                return;
            }
        }
        if batch.len() == ROWS || bytes >= BYTES {
            bytes = 0;
            if !send(Work::Rows(std::mem::take(&mut batch))) {
                return;
            }
        }
    }
    let _ = send(Work::Rows(batch)) && send(Work::End);
}

/// Prepares batches until the last one, or until the receiver is gone.
fn prepare(plan: &StreamPlan, work: &Receiver<Work>, done: &SyncSender<Result<PreparedBatch>>) {
    for item in work {
        let item = match item {
            Work::Rows(rows) => prepare_rows(plan, rows).map(PreparedBatch::Rows),
            Work::Failed(error) => Err(error),
            Work::End => Ok(PreparedBatch::End),
        };
        if done.send(item).is_err() {
            return;
        }
    }
}

fn prepare_rows(plan: &StreamPlan, rows: Vec<ReadRow>) -> Result<Vec<(ReadRow, Outcome)>> {
    let renamed = rows.into_iter().map(|mut read| {
        read.record = plan.columns_of(read.set).apply(read.record)?;
        Ok(read)
    });
    let rows: Vec<ReadRow> = renamed.collect::<Result<_>>()?;
    let with_format = rows.iter().map(|read| {
        let format = plan.formats.of(&read.record, &read.format)?;
        Ok((&read.record, format))
    });
    let with_format: Vec<_> = with_format.collect::<Result<_>>()?;
    let outcomes = outcomes(&with_format, &plan.encoder, &plan.options.prepare);
    let prepared = rows.into_iter().zip(outcomes).map(|(mut read, outcome)| {
        // Whoever counts the row needs its text if it has empty cells.
        if !empty::has_cells(&read.record) {
            read.record.text = String::new();
        }
        let mut outcome = outcome?;
        if let (false, Some(unused)) = (read.left_out.is_empty(), &mut outcome.unused) {
            unused.extend(read.left_out.iter().cloned());
        }
        Ok((read, outcome))
    });
    prepared.collect()
}
