//! A run's connection: the session, the experiment, and what the server has of it. Sends the files of the run.

use super::batch::{Batch, Blob, Offsets, OnServer};
use super::http::Failure;
use super::part::Part;
use super::progress::Progress;
use super::record::{Start, resume};
use super::remote::Remote;
use super::retry::{Patience, retry};
use super::session::Session;
use super::settings::Account;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(600);
/// Columns in one request.
const COLUMNS: usize = 3000;
/// Files in one request for addresses.
const FILES: usize = 100;
/// How often sending a file to the object store is tried.
const STORE_TRIES: u32 = 3;
/// After so many items in a row that the server refuses, no more are sent.
const REFUSALS: u32 = 20;

/// A run's connection.
pub struct Link {
    session: Session,
    remote: Remote,
    known: OnServer,
    host: String,
    beat: Instant,
    /// Items that the server refused.
    pub refused: u32,
    refused_in_a_row: u32,
    /// The answer of the server to the first of them.
    pub complaint: Option<String>,
    /// The number of records that were sent.
    pub records: usize,
    /// The number of records that the server had already.
    pub skipped: usize,
}

impl Link {
    /// Logs in, finds or makes the experiment, and asks which entries it has.
    pub fn open(
        account: &Account,
        start: &Start,
        patience: &mut dyn Patience,
    ) -> Result<Self, Failure> {
        let Some(key) = &account.key else {
            return Err(Failure::Key("there is no key".to_owned()));
        };
        let mut session = retry(patience, || Session::open(account, key))?;
        let remote = retry(patience, || {
            Remote::open(&mut session, start, &account.web_host)
        })?;
        let mut known = OnServer::default();
        if remote.known {
            let summary = retry(patience, || remote.summary(&mut session))?;
            known
                .columns
                .extend(summary.steps.iter().map(|(key, _)| key.clone()));
            known.steps.extend(summary.steps);
            known.lines = summary.lines;
        }
        let mut link = Self {
            session,
            remote,
            known,
            host: account.api_host.clone(),
            beat: Instant::now(),
            refused: 0,
            refused_in_a_row: 0,
            complaint: None,
            records: 0,
            skipped: 0,
        };
        retry(patience, || link.heartbeat())?;
        Ok(link)
    }

    /// The run's page.
    pub fn page(&self) -> &str {
        &self.remote.page
    }

    /// Whether the server had the run before.
    pub fn is_known(&self) -> bool {
        self.remote.known
    }

    fn heartbeat(&mut self) -> Result<(), Failure> {
        self.remote.heartbeat(&mut self.session)?;
        self.beat = Instant::now();
        Ok(())
    }

    /// Sends a heartbeat if one is due.
    pub fn keep_alive(&mut self, patience: &mut dyn Patience) -> Result<(), Failure> {
        if self.beat.elapsed() < HEARTBEAT {
            return Ok(());
        }
        retry(patience, || self.heartbeat())
    }

    /// Moves the reader to the first record of a file that is not sent yet.
    pub fn seek_unsent(&mut self, part: &mut Part) {
        let experiment = &self.remote.experiment_id;
        if let Some(known) = Progress::read(&part.dir, &self.host, experiment) {
            part.reader.seek(known.sent);
            if known.sent > 0 {
                self.known.read = self.known.lines;
            }
            part.progress = known;
            return;
        }
        // The first file of a run numbers as the server does; a later one goes on from what is there.
        let first = part.start.resume == resume::NEVER;
        let (lines, samples) = match first {
            true => (0, 0),
            false => (self.known.lines, self.known.samples()),
        };
        part.progress = Progress {
            host: self.host.clone(),
            experiment: experiment.clone(),
            page: self.remote.page.clone(),
            lines,
            samples,
            ..Progress::default()
        };
        // A later process has to number in the same way.
        self.note(part);
    }

    /// Sends what the file has up to byte `limit`, a batch at most; gives the batch's end state if it is in it.
    pub fn send(
        &mut self,
        part: &mut Part,
        limit: u64,
        patience: &mut dyn Patience,
    ) -> Result<Batch, Failure> {
        let offsets = Offsets {
            lines: part.progress.lines,
            samples: part.progress.samples,
        };
        let new = self.remote.new_columns;
        let mut batch = Batch::read(&mut part.reader, limit, &mut self.known, offsets, new)?;
        self.skipped += batch.skipped;
        for body in std::mem::take(&mut batch.profile) {
            let sent = retry(patience, || self.remote.profile(&mut self.session, &body));
            self.count_refusal(sent)?;
        }
        let columns = std::mem::take(&mut batch.columns);
        for some in columns.chunks(COLUMNS) {
            self.pieces(some, patience, |link, some| {
                link.remote.columns(&mut link.session, some)
            })?;
        }
        let numbers = std::mem::take(&mut batch.numbers);
        self.metrics("scalar", &numbers, patience)?;
        let lines = std::mem::take(&mut batch.lines);
        self.metrics("log", &lines, patience)?;
        let mut references = std::mem::take(&mut batch.references);
        for some in std::mem::take(&mut batch.blobs).chunks(FILES) {
            let sent = self.upload(some, patience);
            if sent.is_err() {
                references.retain(|reference| !some.iter().any(|blob| reference.names(&blob.path)));
            }
            self.count_refusal(sent)?;
        }
        self.metrics("media", &references, patience)?;
        self.records += batch.records - batch.skipped;
        if !batch.is_empty() {
            part.progress.sent = batch.end;
            self.note(part);
        }
        Ok(batch)
    }

    /// Uploads files to the addresses that the server gives. An object store that cannot be reached delays nothing else for long.
    fn upload(&mut self, blobs: &[Blob], patience: &mut dyn Patience) -> Result<(), Failure> {
        let paths: Vec<&str> = blobs.iter().map(|blob| blob.path.as_str()).collect();
        let mut tries = 0;
        retry(patience, || {
            let urls = self.remote.addresses(&mut self.session, &paths)?;
            let mut pairs = blobs.iter().zip(urls);
            let put = pairs
                .try_for_each(|(blob, url)| self.session.put_bytes(&url, blob.mime, &blob.bytes));
            tries += 1;
            match put {
                Err(Failure::Store(message)) if tries == STORE_TRIES => Err(Failure::Refused {
                    status: 400,
                    message,
                    after: None,
                }),
                put => put,
            }
        })
    }

    fn metrics<T: Serialize>(
        &mut self,
        kind: &str,
        all: &[T],
        patience: &mut dyn Patience,
    ) -> Result<(), Failure> {
        self.pieces(all, patience, |link, some| {
            link.remote.metrics(&mut link.session, kind, some)
        })
    }

    /// Sends items in one request; if the server refuses it, in halves, so that one wrong item does not cost
    /// the others.
    fn pieces<T>(
        &mut self,
        all: &[T],
        patience: &mut dyn Patience,
        mut send: impl FnMut(&mut Self, &[T]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut waiting = vec![all];
        while let Some(some) = waiting.pop() {
            if some.is_empty() {
                continue;
            }
            match retry(patience, || send(self, some)) {
                Err(failure) if failure.is_about_content() && some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    waiting.extend([second, first]);
                }
                sent => self.count_refusal(sent)?,
            }
        }
        Ok(())
    }

    /// Counts an item that the server refuses; an error if it refuses everything.
    fn count_refusal(&mut self, sent: Result<(), Failure>) -> Result<(), Failure> {
        match sent {
            Ok(()) => self.refused_in_a_row = 0,
            Err(failure) if failure.is_about_content() && self.refused_in_a_row < REFUSALS => {
                self.refused += 1;
                self.refused_in_a_row += 1;
                self.complaint.get_or_insert_with(|| failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Tells the server how the run ended.
    pub fn finish(
        &mut self,
        part: &mut Part,
        how: i32,
        patience: &mut dyn Patience,
    ) -> Result<(), Failure> {
        retry(patience, || self.remote.finish(&mut self.session, how))?;
        self.save_progress(part);
        Ok(())
    }

    /// Notes that all of this file is sent.
    pub fn save_progress(&self, part: &mut Part) {
        part.progress.finished = true;
        self.note(part);
    }

    /// Notes on disk how far the sending is. If the note is missing, the server is asked which entries it has.
    fn note(&self, part: &Part) {
        let _ = part.progress.write(&part.dir);
    }
}
