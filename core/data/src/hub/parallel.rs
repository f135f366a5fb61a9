//! Downloads several files in parallel, with one progress bar.

use super::fetch::{Download, Failure, download};
use super::http::Http;
use apus_base::lines::info;
use apus_base::wording::counted;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of files that are downloaded at once.
const WORKERS: usize = 4;

/// Downloads all files that are missing. After the first failure no more downloads are started.
pub(super) fn download_all(http: &Http, title: &str, files: &[Download]) -> Result<(), Failure> {
    let missing: Vec<&Download> = files.iter().filter(|file| !file.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let bytes = missing.iter().map(|file| file.size).sum();
    let bar = progress(title, missing.len(), bytes);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let first = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(missing.len()) {
            scope.spawn(|| {
                while first().is_none()
                    && let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Err(error) = download(http, file, &bar) {
                        first().get_or_insert(error);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Shows a progress bar on a terminal, and prints a line elsewhere.
fn progress(title: &str, files: usize, bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        let files = counted(files, "file");
        info!("downloading {title}: {files}, {}", HumanBytes(bytes));
        return ProgressBar::hidden();
    }
    let style = "{msg}  {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes)
        .with_style(style)
        .with_message(title.to_owned())
}
