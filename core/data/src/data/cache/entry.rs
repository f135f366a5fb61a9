//! An entry of the cache: a safetensors file with the ids, labels and weights of all samples one after
//! another, the length and the record of each, and the report as metadata.

use crate::chat::Encoded;
use crate::data::{Report, file::Record, prepare::Dataset};
use anyhow::{Context, Result, ensure};
use apus_base::checksums::hex;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fs, io::Write, path::Path, sync::Arc};

const TENSORS: [&str; 5] = ["ids", "labels", "lengths", "records", "weights"];

/// The metadata of an entry.
#[derive(Serialize, Deserialize)]
struct EntryMetadata {
    report: Report,
    channels: Vec<Option<String>>,
    /// The columns of each sample that were kept, if any were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<Option<String>>,
    hash: String,
}

/// Writes an entry under a temporary name and renames it.
///
/// # Errors
/// The folder cannot be written, or a number does not fit.
pub fn write(path: &Path, dataset: &Dataset) -> Result<()> {
    let samples = &dataset.samples;
    let number = |n: usize| u32::try_from(n).context("more tokens than an entry holds");
    let ids = samples.iter().flat_map(|sample| &sample.input_ids);
    let labels = samples.iter().flat_map(|sample| &sample.labels);
    let labels: Vec<i32> = labels
        .map(|label| i32::try_from(*label).with_context(|| format!("label {label}")))
        .collect::<Result<_>>()?;
    let weights = samples.iter().flat_map(|sample| &sample.weights);
    let lengths = samples.iter().map(|sample| number(sample.len()));
    let lengths: Vec<u32> = lengths.collect::<Result<_>>()?;
    let records = dataset.records.iter().map(|record| number(*record));
    let records: Vec<u32> = records.collect::<Result<_>>()?;
    let columns: [(Dtype, Vec<u8>); 5] = [
        (Dtype::U32, ids.flat_map(|n| n.to_le_bytes()).collect()),
        (
            Dtype::I32,
            labels.iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        (
            Dtype::U32,
            lengths.iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        (
            Dtype::U32,
            records.iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        (Dtype::F32, weights.flat_map(|n| n.to_le_bytes()).collect()),
    ];
    let metadata = EntryMetadata {
        report: dataset.report.clone(),
        channels: samples
            .iter()
            .map(|sample| sample.channel.clone())
            .collect(),
        columns: match samples.iter().any(|sample| sample.columns.is_some()) {
            true => samples
                .iter()
                .map(|sample| sample.columns.as_deref().map(str::to_owned))
                .collect(),
            false => Vec::new(),
        },
        hash: hash(columns.iter().map(|(_, bytes)| bytes.as_slice())),
    };
    let mut tensors = Vec::with_capacity(columns.len());
    for (name, (dtype, bytes)) in TENSORS.into_iter().zip(&columns) {
        tensors.push((name, TensorView::new(*dtype, vec![bytes.len() / 4], bytes)?));
    }
    let metadata = HashMap::from([("apus".to_owned(), serde_json::to_string(&metadata)?)]);
    let bytes = safetensors::serialize(tensors, Some(metadata))?;

    let folder = path.parent().context("an entry is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Reads an entry.
///
/// # Errors
/// The file is not whole.
pub fn read(path: &Path, sources: &[Record]) -> Result<Dataset> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes, sources).with_context(|| format!("{}: broken cache entry", path.display()))
}

fn parse(bytes: &[u8], sources: &[Record]) -> Result<Dataset> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let metadata = metadata.metadata().as_ref().and_then(|map| map.get("apus"));
    let metadata: EntryMetadata = serde_json::from_str(metadata.context("no report in it")?)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    let mut columns = Vec::with_capacity(TENSORS.len());
    for name in TENSORS {
        columns.push(tensors.tensor(name)?.data());
    }
    ensure!(
        hash(columns.iter().copied()) == metadata.hash,
        "the hash of its contents is not the one it was written with"
    );
    let words = |column: usize| {
        columns[column]
            .chunks_exact(4)
            .map(|c| [c[0], c[1], c[2], c[3]])
    };
    let mut ids = words(0).map(u32::from_le_bytes);
    let mut labels = words(1).map(|word| i64::from(i32::from_le_bytes(word)));
    let mut weights = words(4).map(f32::from_le_bytes);
    let mut dataset = Dataset {
        report: metadata.report,
        ..Dataset::default()
    };
    let lengths = words(2).map(u32::from_le_bytes);
    let mut kept = metadata.columns.into_iter();
    for (length, channel) in lengths.zip(metadata.channels) {
        let length = length as usize;
        dataset.samples.push(Encoded {
            input_ids: ids.by_ref().take(length).collect(),
            labels: labels.by_ref().take(length).collect(),
            weights: weights.by_ref().take(length).collect(),
            channel,
            columns: kept.next().flatten().map(Arc::from),
        });
    }
    for record in words(3).map(|word| u32::from_le_bytes(word) as usize) {
        let source = sources.get(record).context("a record that is not there")?;
        dataset.records.push(record);
        dataset.locations.push(source.location());
    }
    Ok(dataset)
}

fn hash<'a>(columns: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for column in columns {
        hash.update((column.len() as u64).to_le_bytes());
        hash.update(column);
    }
    hex(&hash.finalize())
}
