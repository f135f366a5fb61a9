//! The rows of one pass over the data, in their order.

use super::{StreamPlan, buffer::ShuffleBuffer};
use crate::data::{
    Reads, Record, file,
    interleave::{Interleaved, OpenDataset},
    rng::Shuffle,
};
use anyhow::Result;
use std::{path::Path, sync::Arc};

/// The first stream of the data seed that is used here, two for each pass. Those below it belong to data in memory.
const FIRST: u64 = 16;

/// A row that was read, and the format of its file.
pub struct ReadRow {
    pub record: Record,
    pub format: Arc<str>,
    /// The number of its dataset.
    pub set: usize,
    /// Columns of its file that were not decoded, since nobody reads them.
    pub left_out: Arc<[String]>,
}

type ReadRowIter = Box<dyn Iterator<Item = Result<ReadRow>> + Send>;

/// The rows of a pass.
///
/// # Errors
/// A dataset that is to be mixed has no rows.
pub fn rows(plan: &Arc<StreamPlan>, pass: u64) -> Result<ReadRowIter> {
    let options = &plan.options;
    let random = |stream| Shuffle::new(options.data_seed, FIRST + 2 * pass + stream);
    let sets = 0..plan.sets.len();
    let rows: ReadRowIter = match &options.mix {
        Some(mix) => {
            let open = sets.map(|set| {
                let plan = Arc::clone(plan);
                Box::new(move || Ok(rows_of_set(&plan, set))) as OpenDataset<ReadRow>
            });
            Box::new(Interleaved::new(open.collect(), mix.clone(), random(0))?)
        }
        None => {
            let plan = Arc::clone(plan);
            Box::new(sets.flat_map(move |set| rows_of_set(&plan, set)))
        }
    };
    Ok(match options.shuffle_buffer {
        Some(size) => Box::new(ShuffleBuffer::new(rows, size, random(1))),
        None => rows,
    })
}

fn rows_of_set(plan: &Arc<StreamPlan>, set: usize) -> ReadRowIter {
    let files = plan.sets[set].opened.files.clone();
    let first = plan.sets[set].first;
    let made = plan.sets[set].made.clone().into_iter().map(Ok);
    let of_component = rows_of_one(plan, set, made, Arc::new([]));
    let plan = Arc::clone(plan);
    let rows = of_component.chain(
        files
            .into_iter()
            .flat_map(move |path| rows_of_file(&plan, set, &path).unwrap_or_else(failed)),
    );
    match first {
        Some(first) => Box::new(rows.take(first)),
        None => Box::new(rows),
    }
}

fn failed(error: anyhow::Error) -> ReadRowIter {
    Box::new(std::iter::once(Err(error)))
}

fn rows_of_file(plan: &Arc<StreamPlan>, set: usize, path: &Path) -> Result<ReadRowIter> {
    let reads = Reads {
        formats: &plan.formats,
        others: &plan.options.prepare.columns,
    };
    let entry = &plan.sets[set];
    let (columns, format) = (plan.columns_of(set), entry.format.as_ref());
    let is_whole = entry.opened.is_changing() || plan.encoder.scales().reads_rows();
    let needed = |names: &[&str]| match is_whole {
        true => Ok(None),
        false => reads.needed(format, columns, names),
    };
    let (rows, left_out) = file::open_needed(path, &needed)?;
    Ok(rows_of_one(plan, set, rows, left_out.into()))
}

/// The rows of a file, or those that a component makes; the first one chooses the format.
fn rows_of_one(
    plan: &Arc<StreamPlan>,
    set: usize,
    rows: impl Iterator<Item = Result<Record>> + Send + 'static,
    left_out: Arc<[String]>,
) -> ReadRowIter {
    let plan = Arc::clone(plan);
    let mut format = None::<Arc<str>>;
    let read = move |record: Result<Record>| -> Result<Option<ReadRow>> {
        let Some(mut record) = plan.sets[set].opened.change(record?)? else {
            return Ok(None);
        };
        record.format.clone_from(&plan.sets[set].format);
        let format = match &format {
            Some(format) => Arc::clone(format),
            None => {
                let row = plan.columns_of(set).apply(record.clone())?.row()?;
                let (name, _) = plan.formats.choose(&record, &row)?;
                Arc::clone(format.insert(Arc::from(name)))
            }
        };
        Ok(Some(ReadRow {
            record,
            format,
            set,
            left_out: Arc::clone(&left_out),
        }))
    };
    Box::new(rows.map(read).filter_map(Result::transpose))
}
