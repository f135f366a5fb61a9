//! Where every tensor of a model's files lies, before a byte of them is known.

use anyhow::Result;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The name of the index of several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// A tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bitsize() / 8
    }
}

/// A file of tensors.
pub struct FileLayout {
    /// Its name.
    pub name: String,
    /// What it begins with: the length of the header, and the header.
    pub start: Vec<u8>,
    /// Its tensors.
    pub entries: Range<usize>,
    /// Bytes of its tensors.
    pub bytes: usize,
    /// Bytes between its tensors and behind them.
    pub padding: usize,
}

impl FileLayout {
    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        (self.start.len() + self.bytes + self.padding) as u64
    }
}

/// The files of a model.
pub struct Layout {
    /// The files.
    pub files: Vec<FileLayout>,
    /// For each tensor its file, and at which byte of the file it begins.
    pub places: Vec<(usize, u64)>,
}

impl Layout {
    /// Lays tensors out in files of at most `max_shard` bytes.
    pub fn new(entries: &[Entry], max_shard: usize) -> Result<Self> {
        let (mut files, mut places) = (Vec::new(), Vec::new());
        let shards = split(entries, max_shard);
        for (i, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let start = start(&entries[shard.clone()])?;
            let mut bytes = 0;
            for entry in &entries[shard.clone()] {
                places.push((i, (start.len() + bytes) as u64));
                bytes += entry.bytes();
            }
            files.push(FileLayout {
                name,
                start,
                entries: shard.clone(),
                bytes,
                padding: 0,
            });
        }
        Ok(Self { files, places })
    }

    /// The index, which a model of one file does not have.
    pub fn index(&self, entries: &[Entry]) -> Option<Value> {
        if self.files.len() < 2 {
            return None;
        }
        let mut map = Map::new();
        for file in &self.files {
            for entry in &entries[file.entries.clone()] {
                map.insert(entry.name.clone(), json!(file.name));
            }
        }
        let total: usize = self.files.iter().map(|file| file.bytes).sum();
        Some(json!({"metadata": {"total_size": total}, "weight_map": map}))
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(FileLayout::size).sum()
    }
}

/// Consecutive entries that fit into a file; one that is larger by itself has a file of its own.
fn split(entries: &[Entry], max_shard: usize) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, entry) in entries.iter().enumerate() {
        if i > start && size + entry.bytes() > max_shard {
            shards.push(start..i);
            (start, size) = (i, 0);
        }
        size += entry.bytes();
    }
    shards.push(start..entries.len());
    shards
}

/// The beginning of a file of these tensors.
fn start(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in entries {
        let end = at + entry.bytes();
        header.insert(
            entry.name.clone(),
            json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = serde_json::to_string(&header)?;
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header.as_bytes());
    Ok(start)
}
