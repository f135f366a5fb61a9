//! One safetensors file, whose header is read once and whose tensors are read when they are asked for.
//!
//! The file is not mapped into memory: if somebody cuts a mapped file, the process ends with a signal, while a read ends
//! with an error that names the file. Large reads are split over all cores and go straight to their destination.

use anyhow::{Context, Error, Result, bail, ensure};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The greatest size of a header, as in the safetensors library.
const MOST_HEADER: u64 = 100_000_000;

/// The bytes that a thread reads at a time.
pub const PART: usize = 1 << 20;

/// A file of tensors.
pub struct Shard {
    path: PathBuf,
    file: File,
    len: u64,
    /// The offset at which the tensors begin.
    start: u64,
    metadata: Metadata,
}

impl Shard {
    /// Opens a file and checks by its header that it is whole.
    ///
    /// # Errors
    /// The file cannot be read, or is not a whole safetensors file.
    pub fn open(path: PathBuf) -> Result<Self> {
        let open = || -> Result<File> {
            // Opening a pipe would wait for its other end.
            ensure!(std::fs::metadata(&path)?.is_file(), "is no regular file");
            Ok(File::open(&path)?)
        };
        let mut file = open().with_context(|| format!("{}: cannot be opened", path.display()))?;
        let len = file
            .metadata()
            .with_context(|| path.display().to_string())?
            .len();
        let (start, metadata) = header(&mut file, len).with_context(|| {
            format!(
                "{}: not a whole safetensors file ({len} bytes); was the download cut?",
                path.display()
            )
        })?;
        Ok(Self {
            path,
            file,
            len,
            start,
            metadata,
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A tensor as it is stored in the file.
    pub fn tensor<'a>(&'a self, name: &'a str) -> Result<StoredTensor<'a>> {
        match self.metadata.info(name) {
            Some(info) => Ok(StoredTensor {
                shard: self,
                name,
                info,
                bytes: info.data_offsets,
            }),
            None => bail!("{}: has no tensor {name}", self.path.display()),
        }
    }
}

/// Reads the offset at which the tensors begin, and their metadata.
fn header(file: &mut File, len: u64) -> Result<(u64, Metadata)> {
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    let start = size.saturating_add(8);
    ensure!(
        size <= MOST_HEADER && start <= len,
        "its header says that it has {size} bytes"
    );
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text)?;
    let metadata: Metadata = serde_json::from_slice(&text).context("malformed header")?;
    let end = start.checked_add(metadata.data_len() as u64);
    ensure!(
        end == Some(len),
        "its tensors take {} bytes after a header of {start}",
        metadata.data_len()
    );
    Ok((start, metadata))
}

/// A tensor as it is stored in its file.
#[derive(Clone, Copy)]
pub struct StoredTensor<'a> {
    shard: &'a Shard,
    name: &'a str,
    info: &'a TensorInfo,
    /// Where it lies among all tensors of the file; of a part, where that lies.
    bytes: (usize, usize),
}

impl<'a> StoredTensor<'a> {
    /// Element type.
    pub fn dtype(self) -> Dtype {
        self.info.dtype
    }

    /// Shape.
    pub fn shape(self) -> &'a [usize] {
        &self.info.shape
    }

    /// Bytes.
    pub fn size(self) -> usize {
        let (from, to) = self.bytes;
        to - from
    }

    /// A range of its elements; its shape stays that of the whole.
    ///
    /// # Errors
    /// It has fewer.
    pub fn part(self, elements: Range<usize>) -> Result<Self> {
        let count: usize = self.shape().iter().product();
        ensure!(
            elements.start <= elements.end && elements.end <= count,
            "{}: elements {elements:?} are asked for, it has {count}",
            self.location()
        );
        let width = match count {
            0 => 0,
            count => self.size() / count,
        };
        let first = self.bytes.0;
        let bytes = (first + elements.start * width, first + elements.end * width);
        Ok(Self { bytes, ..self })
    }

    /// `FILE: tensor NAME`.
    pub fn location(self) -> String {
        format!("{}: tensor {}", self.shard.path.display(), self.name)
    }

    /// Fills `to` with the bytes of the tensor from `at` on.
    ///
    /// # Errors
    /// The file cannot be read, or it was cut after it was opened.
    pub fn read(self, at: usize, to: &mut [u8]) -> Result<()> {
        let (from, end) = self.bytes;
        ensure!(
            at <= end - from && to.len() <= end - from - at,
            "{}: {} bytes from {at} on are asked for, it has {}",
            self.location(),
            to.len(),
            self.size()
        );
        let offset = self.shard.start + (from + at) as u64;
        let read = self.shard.file.read_exact_at(to, offset);
        read.map_err(|error| self.explain(error))
    }

    /// Reads all bytes, with all cores.
    pub fn to_vec(self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size()];
        bytes
            .par_chunks_mut(PART)
            .enumerate()
            .try_for_each(|(i, part)| self.read(i * PART, part))?;
        Ok(bytes)
    }

    fn explain(self, error: std::io::Error) -> Error {
        if error.kind() != ErrorKind::UnexpectedEof {
            return Error::new(error).context(format!("{}: cannot be read", self.location()));
        }
        let now = self.shard.file.metadata().map(|now| now.len());
        let now = now.map_or_else(|_| "fewer".to_owned(), |now| now.to_string());
        Error::msg(format!(
            "{}: the file ends before it: it had {} bytes when it was opened and has {now} now; another process cut it \
             while it was read",
            self.location(),
            self.shard.len
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    fn write(path: &Path, header: &str, data: usize) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..data).map(|i| (i % 251) as u8));
        fs::write(path, bytes).unwrap();
    }

    fn tensor(shape: &[usize], offsets: [usize; 2]) -> serde_json::Value {
        json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets})
    }

    #[test]
    fn parts_and_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let elements = PART + 77;
        let header =
            json!({"a": tensor(&[3], [0, 6]), "b": tensor(&[elements], [6, 6 + 2 * elements])});
        write(&path, &header.to_string(), 6 + 2 * elements);
        let shard = Shard::open(path).unwrap();
        let b = shard.tensor("b").unwrap();
        assert_eq!((b.shape(), b.size()), (&[elements][..], 2 * elements));
        let expected: Vec<u8> = (6..6 + 2 * elements).map(|i| (i % 251) as u8).collect();
        assert!(b.to_vec().unwrap() == expected);
        let mut part = [0; 5];
        b.read(2 * elements - 5, &mut part).unwrap();
        assert_eq!(part, expected[2 * elements - 5..]);
        assert!(b.read(2 * elements - 4, &mut part).is_err());
        assert!(
            shard
                .tensor("c")
                .err()
                .unwrap()
                .to_string()
                .contains("no tensor c")
        );
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        write(
            &path,
            &json!({"a": tensor(&[PART * 3], [0, PART * 6])}).to_string(),
            PART * 6,
        );
        let shard = Shard::open(path.clone()).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(5000)
            .unwrap();
        let error = shard.tensor("a").unwrap().to_vec().unwrap_err().to_string();
        assert!(
            error.contains("a.safetensors: tensor a") && error.contains("has 5000 now"),
            "{error}"
        );
    }

    #[test]
    fn headers_are_checked_before_anything_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let error = || format!("{:#}", Shard::open(path.clone()).err().unwrap());
        let huge = usize::MAX / 2;
        for (header, data) in [
            (json!({"a": tensor(&[3], [0, 6])}), 5),
            (json!({"a": tensor(&[3], [0, 6])}), 7),
            (json!({"a": tensor(&[3], [2, 8])}), 8),
            (json!({"a": tensor(&[4], [0, 6])}), 6),
            (json!({"a": tensor(&[huge, 4], [0, 6])}), 6),
            (json!({"a": tensor(&[huge], [0, huge * 2])}), 6),
            (json!({"a": tensor(&[3], [6, 0])}), 6),
            (
                json!({"a": tensor(&[3], [0, 6]), "b": tensor(&[3], [3, 9])}),
                9,
            ),
            (
                json!({"a": {"dtype": "X", "shape": [3], "data_offsets": [0, 6]}}),
                6,
            ),
            (
                json!({"a": {"dtype": "BF16", "shape": [-3], "data_offsets": [0, 6]}}),
                6,
            ),
            (json!([1]), 0),
        ] {
            write(&path, &header.to_string(), data);
            assert!(
                error().contains("a.safetensors: not a whole safetensors file"),
                "{header}"
            );
        }
        for size in [101u64, MOST_HEADER + 1, u64::MAX - 4, u64::MAX] {
            let mut bytes = size.to_le_bytes().to_vec();
            bytes.extend([b' '; 100]);
            fs::write(&path, bytes).unwrap();
            assert!(
                error().contains(&format!("says that it has {size} bytes")),
                "{}",
                error()
            );
        }
        fs::write(&path, [0; 7]).unwrap();
        assert!(error().contains("not a whole"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(error().contains("no regular file"));
    }
}
