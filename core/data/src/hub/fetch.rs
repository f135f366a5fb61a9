//! Downloads one file: it is resumed where it was cut off, checked, and only then moved to its final path.

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

/// Files up to this size are hashed each time, to see whether they are whole.
const HASHED_AGAIN: u64 = 8 << 20;

/// A file to download.
#[derive(Debug, Clone)]
pub(super) struct Download {
    /// Its name in the repository.
    pub name: String,
    /// The URL that it is downloaded from.
    pub url: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, if the listing has it.
    pub sha256: Option<String>,
    /// The path of the finished file.
    pub target: PathBuf,
    /// The path of the file that bytes are appended to while they arrive.
    pub partial: PathBuf,
    /// The path of the file that is locked during the download.
    pub lock: PathBuf,
}

impl Download {
    /// Whether the finished file exists. Its size is compared, and for small files the hash, too.
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

/// Why a download failed.
pub(super) enum Failure {
    /// The server refused it or cannot be reached.
    Http(HttpError),
    /// Something else failed, such as writing the file.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Downloads a file, unless another process did so while this one waited for the lock.
pub(super) fn download(http: &Http, file: &Download, bar: &ProgressBar) -> Result<(), Failure> {
    for path in [&file.target, &file.partial, &file.lock] {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    let _lock = lock(&file.lock, bar)?;
    if file.is_there() {
        bar.inc(file.size);
        return Ok(());
    }
    download_all_bytes(http, file, bar)?;
    check_and_rename(file)?;
    Ok(())
}

/// Locks a download until the returned file is dropped; other processes wait.
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

/// The progress of one file on the bar of all.
struct FileProgress<'a> {
    bar: &'a ProgressBar,
    bytes: u64,
}

impl FileProgress<'_> {
    fn set(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.bar.inc(more),
            None => self.bar.dec(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

/// Downloads until the partial file has all bytes. It gives up after several tries in a row that bring none.
fn download_all_bytes(http: &Http, file: &Download, bar: &ProgressBar) -> Result<(), Failure> {
    let mut progress = FileProgress { bar, bytes: 0 };
    let (mut tried, mut furthest) = (0, 0);
    loop {
        let have = length(&file.partial);
        progress.set(have);
        if have == file.size && file.partial.exists() {
            return Ok(());
        }
        let cut = try_once(http, file, have, &mut progress)?;
        let have = length(&file.partial);
        if have == file.size && file.partial.exists() {
            return Ok(());
        }
        if have > furthest {
            (tried, furthest) = (0, have);
        }
        tried += 1;
        if tried == TRIES {
            return Err(Failure::Other(anyhow!(
                "{}: {cut}; {have} of {} bytes are kept, and the next run goes on from there",
                file.name,
                file.size
            )));
        }
        http.wait(tried - 1);
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Tries once, and returns why the file may not be complete.
fn try_once(
    http: &Http,
    file: &Download,
    have: u64,
    progress: &mut FileProgress,
) -> Result<String, Failure> {
    let size = file.size;
    let too_long = format!("the server sends more than the {size} bytes that it lists");
    if have > size {
        remove(&file.partial)?;
        return Ok(too_long);
    }
    let response = match http.get(&file.url, have) {
        Ok(response) => response,
        // The partial file is longer than the file on the server.
        Err(HttpError::Refused { status, .. }) if status == StatusCode::RANGE_NOT_SATISFIABLE => {
            remove(&file.partial)?;
            return Ok(format!(
                "the server ends after {have} of the {size} bytes that it lists"
            ));
        }
        Err(HttpError::Unreachable(cause)) => return Ok(cause),
        Err(refused) => return Err(Failure::Http(refused)),
    };
    if let Some(cut) = append(response, file, have, progress)? {
        return Ok(cut);
    }
    match length(&file.partial) > size {
        true => {
            remove(&file.partial)?;
            Ok(too_long)
        }
        false => Ok(format!(
            "the server sends fewer than the {size} bytes that it lists"
        )),
    }
}

/// Appends the response to the partial file, and returns what cut it off, if anything did.
fn append(
    mut response: Response,
    file: &Download,
    have: u64,
    progress: &mut FileProgress,
) -> Result<Option<String>> {
    let broken = || format!("{}: cannot be written", file.partial.display());
    let goes_on =
        response.status() == StatusCode::PARTIAL_CONTENT && starts_at(&response) == Some(have);
    let mut output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file.partial)
        .with_context(broken)?;
    if !goes_on {
        output.set_len(0).with_context(broken)?;
        progress.set(0);
    }
    let mut buffer = vec![0; 1 << 18];
    while progress.bytes <= file.size {
        let count = match response.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(chain(&error))),
        };
        output.write_all(&buffer[..count]).with_context(broken)?;
        progress.set(progress.bytes + count as u64);
    }
    Ok(None)
}

/// The offset at which a response starts: 100 for `bytes 100-199/200`.
fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Checks the hash of a complete file and moves it to its final path.
fn check_and_rename(file: &Download) -> Result<()> {
    let partial = file.partial.as_path();
    if let Some(expected) = &file.sha256 {
        let found = sha256(partial)?;
        if !found.eq_ignore_ascii_case(expected) {
            remove(partial)?;
            bail!(
                "{}: the sha256 of what was downloaded is {found}, expected {expected}; it was removed, try again",
                file.name
            );
        }
    }
    File::open(partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(partial, &file.target))
        .with_context(|| {
            format!(
                "{}: cannot become {}",
                partial.display(),
                file.target.display()
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
