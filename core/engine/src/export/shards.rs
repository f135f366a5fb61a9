//! The files of a model while they are written: each has its whole size from the start, and tensors are written in any order, by
//! any thread.

use super::finite::bad_elements;
use super::layout::{Entry, Layout};
use anyhow::{Context, Result, ensure};
use apus_base::memory;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The files of a model that is being written.
pub struct Shards<'a> {
    entries: &'a [Entry],
    layout: &'a Layout,
    files: Vec<File>,
    /// Bytes of each file that are not written yet.
    left: Vec<AtomicUsize>,
}

impl<'a> Shards<'a> {
    /// Creates the files with their headers, and the space that they need on the disk.
    pub fn create(dir: &Path, entries: &'a [Entry], layout: &'a Layout) -> Result<Self> {
        let mut files = Vec::new();
        for file in &layout.files {
            let create = || -> Result<File> {
                let created = File::create(dir.join(&file.name))?;
                memory::reserve(&created, file.size())?;
                created.write_all_at(&file.start, 0)?;
                if file.bytes == 0 {
                    created.sync_all()?;
                }
                Ok(created)
            };
            files.push(create().with_context(|| file.name.clone())?);
        }
        Ok(Self {
            entries,
            layout,
            files,
            left: (layout.files.iter().map(|f| AtomicUsize::new(f.bytes))).collect(),
        })
    }

    /// Writes bytes of a tensor from its byte `at` on. They are looked at for numbers that are not finite first, while they are
    /// in the cache. A file that is whole now goes to the disk while the others are written.
    ///
    /// # Errors
    /// The bytes do not fit, are not finite, or the disk failed.
    pub fn write(&self, number: usize, at: usize, bytes: &[u8]) -> Result<()> {
        let entry = &self.entries[number];
        let write = || -> Result<()> {
            let whole = entry.bytes();
            ensure!(
                at <= whole && bytes.len() <= whole - at,
                "{} bytes from {at} on, expected {whole} in all",
                bytes.len()
            );
            let bad = bad_elements(bytes, entry.dtype);
            let all = match bytes.len() == whole {
                true => format!("its {} values", entry.elements()),
                false => format!("its values in bytes {at} to {}", at + bytes.len()),
            };
            ensure!(bad == 0, "{bad} of {all} are not finite");
            let (file, start) = self.layout.places[number];
            self.files[file].write_all_at(bytes, start + at as u64)?;
            let before = self.left[file].fetch_sub(bytes.len(), Ordering::AcqRel);
            if before == bytes.len() && !bytes.is_empty() {
                self.files[file].sync_all()?;
            }
            Ok(())
        };
        write().with_context(|| format!("tensor {}", entry.name))
    }

    /// Checks that everything was written.
    pub fn finish(self) -> Result<()> {
        for (file, left) in self.layout.files.iter().zip(self.left) {
            let left = left.into_inner();
            ensure!(left == 0, "{}: {left} bytes were not written", file.name);
        }
        Ok(())
    }
}
