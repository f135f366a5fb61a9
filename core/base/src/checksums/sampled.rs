//! Whether a large file is still the same one, at the cost of a few reads.
//!
//! A model of many gigabytes is not read twice to find out whether a run goes on with the one that it began with, and
//! neither is data that is streamed because it is too large. Other weights of the same shape differ nearly everywhere,
//! so pages from all over a file, its ends among them, tell it from another one. A small file is read whole.

use super::hex;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a sample.
const PAGE: u64 = 16 << 10;

/// Samples of a file, over its length.
const PAGES: u64 = 256;

/// A hash over the sizes and samples of these files, in this order. Their names and places do not count.
pub fn sampled<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        add(&mut hash, path).with_context(|| format!("{}: cannot be read", path.display()))?;
    }
    Ok(hex(&hash.finalize()))
}

fn add(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    hash.update(bytes.to_le_bytes());
    let mut page = Vec::with_capacity(PAGE as usize);
    let mut read = |file: &mut File, at: u64| {
        page.clear();
        file.seek(SeekFrom::Start(at))?;
        file.take(PAGE).read_to_end(&mut page)?;
        hash.update(&page);
        Ok(())
    };
    if bytes <= PAGE * PAGES {
        return (0..bytes.div_ceil(PAGE)).try_for_each(|i| read(&mut file, i * PAGE));
    }
    // The last one ends with the file.
    let last = u128::from(bytes - PAGE);
    let places = (0..PAGES).map(|i| (last * u128::from(i) / u128::from(PAGES - 1)) as u64);
    places.into_iter().try_for_each(|at| read(&mut file, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hash(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        sampled([file.path()]).unwrap()
    }

    #[test]
    fn a_small_file_is_known_by_each_byte() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        assert_eq!(hash(&bytes), hash(&bytes));
        for at in [0, 1, 50_000, 99_999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(hash(&other), hash(&bytes), "{at}");
        }
        assert_ne!(hash(&bytes[..99_999]), hash(&bytes));
    }

    #[test]
    fn a_large_file_is_known_by_its_size_its_ends_and_what_is_between() {
        let bytes = vec![1; 9 << 20];
        let whole = hash(&bytes);
        for at in [0, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] = 2;
            assert_ne!(hash(&other), whole, "{at}");
        }
        let mut other = bytes.clone();
        other[3 << 20..(3 << 20) + (64 << 10)].fill(2);
        assert_ne!(hash(&other), whole);
        assert_ne!(hash(&bytes[1..]), whole);
    }
}
