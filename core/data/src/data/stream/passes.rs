//! The rows of one pass over the data, in their order.

use super::{StreamPlan, buffer::ShuffleBuffer};
use crate::data::{
    Record, file,
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
    let of_component = rows_of_one(plan, set, plan.sets[set].made.clone().into_iter().map(Ok));
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
    Ok(rows_of_one(plan, set, file::open(path)?))
}

/// The rows of a file, or those that a component makes; the first one chooses the format.
fn rows_of_one(
    plan: &Arc<StreamPlan>,
    set: usize,
    rows: impl Iterator<Item = Result<Record>> + Send + 'static,
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
        }))
    };
    Box::new(rows.map(read).filter_map(Result::transpose))
}
