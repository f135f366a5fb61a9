//! One safetensors file, mapped into memory, its header read once.

use anyhow::{Context, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorView};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file of tensors.
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors begin.
    start: usize,
    metadata: Metadata,
}

impl Shard {
    /// Maps a file and checks that it is whole.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file =
            File::open(&path).with_context(|| format!("{}: cannot be opened", path.display()))?;
        // SAFETY: the mapping is only read; a model file that another process cuts while it is being
        // used is outside of what any reader of mapped files can guard against.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("{}: cannot be mapped", path.display()))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).with_context(|| {
            format!(
                "{}: not a whole safetensors file ({} bytes); was the download cut?",
                path.display(),
                map.len()
            )
        })?;
        Ok(Self {
            path,
            start: size_of::<u64>() + header,
            map,
            metadata,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A tensor as it lies in the file.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let info = self
            .metadata
            .info(name)
            .with_context(|| format!("{}: has no {name}", self.path.display()))?;
        let (from, to) = info.data_offsets;
        let data = &self.map[self.start + from..self.start + to];
        Ok(TensorView::new(info.dtype, info.shape.clone(), data)?)
    }
}
