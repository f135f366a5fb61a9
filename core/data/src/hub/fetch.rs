//! One file: resumed where it was cut off, checked, and only then under its name.

use super::http::{Http, HttpError, TRIES, chain};
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::errln;
use indicatif::ProgressBar;
use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Files up to this size are hashed again each time.
const HASHED_AGAIN: u64 = 8 << 20;

/// A file to download.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its name in the repository.
    pub name: String,
    /// Where it comes from.
    pub url: String,
    /// Its bytes.
    pub size: u64,
    /// Their hash, if the listing gives it.
    pub sha256: Option<String>,
    /// Where it goes.
    pub target: PathBuf,
    /// Where it grows.
    pub partial: PathBuf,
    /// What is locked meanwhile.
    pub lock: PathBuf,
}

impl Wanted {
    /// Whether it is there already: by its size, and small files by their hash too.
    pub(super) fn is_there(&self) -> bool {
        let there = fs::metadata(&self.target)
            .is_ok_and(|found| found.is_file() && found.len() == self.size);
        there
            && match &self.sha256 {
                Some(hash) if self.size <= HASHED_AGAIN => {
                    sha256(&self.target).is_ok_and(|found| found.eq_ignore_ascii_case(hash))
                }
                _ => true,
            }
    }
}

/// Why a file did not come: the server refused, or something else.
pub(super) enum Failure {
    /// By the server.
    Http(HttpError),
    /// Otherwise.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Downloads a file, unless it is there already when the lock is.
pub(super) fn download(http: &Http, wanted: &Wanted, bar: &ProgressBar) -> Result<(), Failure> {
    for path in [&wanted.target, &wanted.partial, &wanted.lock] {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    let _lock = lock(&wanted.lock, bar)?;
    if wanted.is_there() {
        bar.inc(wanted.size);
        return Ok(());
    }
    fill(http, wanted, bar)?;
    finish(wanted)?;
    Ok(())
}

/// Held until the file is dropped; another process waits.
fn lock(path: &Path, bar: &ProgressBar) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("{}: cannot be made", path.display()))?;
    if file.try_lock().is_err() {
        bar.suspend(|| errln!("waiting for another process that holds {}", path.display()));
        file.lock()
            .with_context(|| format!("{}: cannot be locked", path.display()))?;
    }
    Ok(file)
}

/// A file's part of the bar.
struct Share<'a> {
    bar: &'a ProgressBar,
    bytes: u64,
}

impl Share<'_> {
    fn set(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.bar.inc(more),
            None => self.bar.dec(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

/// Until the partial file has all bytes. Each try that brings none counts; after too many it ends.
fn fill(http: &Http, wanted: &Wanted, bar: &ProgressBar) -> Result<(), Failure> {
    let mut share = Share { bar, bytes: 0 };
    let (mut tried, mut furthest) = (0, 0);
    loop {
        let have = length(&wanted.partial);
        share.set(have);
        if have == wanted.size && wanted.partial.exists() {
            return Ok(());
        }
        let cut = grow(http, wanted, have, &mut share)?;
        let have = length(&wanted.partial);
        if have == wanted.size && wanted.partial.exists() {
            return Ok(());
        }
        if have > furthest {
            (tried, furthest) = (0, have);
        }
        tried += 1;
        if tried == TRIES {
            return Err(Failure::Other(anyhow!(
                "{}: {cut}; {have} of {} bytes are kept, and the next run goes on from there",
                wanted.name,
                wanted.size
            )));
        }
        http.wait(tried - 1);
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// One try; tells why it may not be enough.
fn grow(http: &Http, wanted: &Wanted, have: u64, share: &mut Share) -> Result<String, Failure> {
    let size = wanted.size;
    let too_long = format!("the server sends more than the {size} bytes that it lists");
    if have > size {
        remove(&wanted.partial)?;
        return Ok(too_long);
    }
    let response = match http.get(&wanted.url, have) {
        Ok(response) => response,
        // The file here does not go on in the file there.
        Err(HttpError::Refused { status, .. }) if status == StatusCode::RANGE_NOT_SATISFIABLE => {
            remove(&wanted.partial)?;
            return Ok(format!(
                "the server ends after {have} of the {size} bytes that it lists"
            ));
        }
        Err(HttpError::Unreachable(cause)) => return Ok(cause),
        Err(refused) => return Err(Failure::Http(refused)),
    };
    if let Some(cut) = append(response, wanted, have, share)? {
        return Ok(cut);
    }
    match length(&wanted.partial) > size {
        true => {
            remove(&wanted.partial)?;
            Ok(too_long)
        }
        false => Ok(format!(
            "the server sends fewer than the {size} bytes that it lists"
        )),
    }
}

/// Writes what comes; tells what cut it off, if something did.
fn append(
    mut response: Response,
    wanted: &Wanted,
    have: u64,
    share: &mut Share,
) -> Result<Option<String>> {
    let broken = || format!("{}: cannot be written", wanted.partial.display());
    let goes_on =
        response.status() == StatusCode::PARTIAL_CONTENT && starts_at(&response) == Some(have);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&wanted.partial)
        .with_context(broken)?;
    if !goes_on {
        file.set_len(0).with_context(broken)?;
        share.set(0);
    }
    let mut buffer = vec![0; 1 << 18];
    while share.bytes <= wanted.size {
        let count = match response.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(chain(&error))),
        };
        file.write_all(&buffer[..count]).with_context(broken)?;
        share.set(share.bytes + count as u64);
    }
    Ok(None)
}

/// `bytes 100-199/200` starts at 100.
fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Checks a whole file and gives it its name.
fn finish(wanted: &Wanted) -> Result<()> {
    let partial = wanted.partial.as_path();
    if let Some(expected) = &wanted.sha256 {
        let found = sha256(partial)?;
        if !found.eq_ignore_ascii_case(expected) {
            remove(partial)?;
            bail!(
                "{}: the sha256 of what was downloaded is {found}, expected {expected}; it was removed, try again",
                wanted.name
            );
        }
    }
    File::open(partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(partial, &wanted.target))
        .with_context(|| {
            format!(
                "{}: cannot become {}",
                partial.display(),
                wanted.target.display()
            )
        })
}

fn sha256(path: &Path) -> Result<String> {
    let broken = || format!("{}: cannot be read", path.display());
    let mut file = File::open(path).with_context(broken)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(broken)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
