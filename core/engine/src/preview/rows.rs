//! `--out`: writes every prepared sample as a row. The format `tokens` reads such rows back unchanged.

use anyhow::{Context, Result};
use apus_data::chat::preview::{WeightRun, weight_runs};
use apus_data::chat::{Encoded, Tokenizer};
use apus_data::data::Dataset;
use rayon::prelude::*;
use serde::Serialize;
use std::{
    io::{BufWriter, Write},
    path::Path,
};

/// How many rows are made in parallel.
const AT_ONCE: usize = 4096;

#[derive(Serialize)]
struct Row<'a> {
    text: String,
    segments: Vec<WeightRun>,
    input_ids: &'a [u32],
    labels: &'a [i64],
    loss_scale: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    /// What the loss reads of the row, so that the file trains as the row does.
    #[serde(flatten)]
    columns: apus_sdk::Row,
}

/// The columns of the file, which no other column takes the place of.
const OWN: [&str; 6] = [
    "text",
    "segments",
    "input_ids",
    "labels",
    "loss_scale",
    "channel",
];

/// Writes the samples, one per line. The file appears under its name only when it is complete.
pub fn write(path: &Path, dataset: &Dataset, tokenizer: &Tokenizer) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::Builder::new();
    // As any new file, where a temporary one would be for its owner alone.
    #[cfg(unix)]
    new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = new.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    let mut out = BufWriter::new(file.as_file_mut());
    for samples in dataset.samples.chunks(AT_ONCE) {
        let lines: Vec<String> = samples
            .par_iter()
            .map(|sample| line(sample, tokenizer))
            .collect::<Result<_>>()?;
        for line in lines {
            out.write_all(line.as_bytes())?;
        }
    }
    out.flush().context("the disk")?;
    drop(out);
    file.persist(path)?;
    Ok(())
}

fn line(sample: &Encoded, tokenizer: &Tokenizer) -> Result<String> {
    let segments = weight_runs(sample, tokenizer);
    let mut columns = sample.columns();
    columns.retain(|name, value| !value.is_null() && !OWN.contains(&name.as_str()));
    let row = Row {
        text: segments.iter().map(|part| part.text.as_str()).collect(),
        segments,
        input_ids: &sample.input_ids,
        labels: &sample.labels,
        loss_scale: &sample.weights,
        channel: sample.channel.as_deref(),
        columns,
    };
    Ok(serde_json::to_string(&row)? + "\n")
}
