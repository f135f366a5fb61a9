//! The thread that sends a run's file while it grows. It alone waits for the network; the run only wakes it.

use super::http::Failure;
use super::link::Link;
use super::lock::Lock;
use super::part::Part;
use super::record::state;
use super::retry::{Patience, pause};
use super::settings::Account;
use super::terminal::Terminal;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How long the thread sleeps at most, so that the server hears of the run in time.
const REST: Duration = Duration::from_secs(60);

/// How long a server may be away before a warning tells it.
const MOMENT: Duration = Duration::from_secs(5);
/// A server that does not answer for so long is asked less often.
const LONG: Duration = Duration::from_secs(300);

/// The state that the run and the thread share.
#[derive(Default)]
struct State {
    /// The length of the file so far.
    written: u64,
    /// Set once the file is complete: until when it may be sent.
    until: Option<Instant>,
    /// The run's page, once the server has given it.
    page: Option<String>,
    /// The result of the sending.
    end: Option<Result<(), Failure>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until something is new, at most this long.
    fn sleep<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let woken = self.wake.wait_timeout(state, most);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The thread, as the run sees it.
pub struct Uploader {
    shared: Arc<Shared>,
}

/// The settings of the thread.
pub struct Task {
    /// The server.
    pub account: Account,
    /// Folders of earlier files of the run, oldest first.
    pub earlier: Vec<(PathBuf, Lock)>,
    /// The folder of the file that is being written.
    pub dir: PathBuf,
    /// The lock that keeps other processes from sending it too.
    pub _lock: Lock,
    /// Time between two shipments.
    pub interval: Duration,
    /// Where notes and warnings go.
    pub terminal: Terminal,
}

impl Uploader {
    /// Starts the thread.
    pub fn start(task: Task, written: u64) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        shared.state().written = written;
        let of_thread = Arc::clone(&shared);
        let work = move || {
            let end = Sender::new(&task, &of_thread).run();
            drop(task);
            of_thread.state().end = Some(end);
            of_thread.wake.notify_all();
        };
        Builder::new().name("swanlab".to_owned()).spawn(work)?;
        Ok(Self { shared })
    }

    /// Tells the thread that the file is written up to here.
    pub fn written(&self, end: u64) {
        self.shared.state().written = end;
        self.shared.wake.notify_all();
    }

    /// Tells the thread that the file is complete, and waits until it is sent, at most this long. `None` if there was not enough time.
    pub fn finish(&self, end: u64, most: Duration) -> Option<Result<(), Failure>> {
        let until = Instant::now() + most;
        let mut state = self.shared.state();
        state.written = end;
        state.until = Some(until);
        self.shared.wake.notify_all();
        loop {
            if let Some(end) = &state.end {
                return Some(end.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.shared.sleep(state, left);
        }
    }

    /// The run's page, as soon as it is known.
    pub fn page(&self) -> Option<String> {
        self.shared.state().page.clone()
    }
}

/// The state of the thread.
struct Sender<'a> {
    task: &'a Task,
    shared: &'a Shared,
}

impl<'a> Sender<'a> {
    fn new(task: &'a Task, shared: &'a Shared) -> Self {
        Self { task, shared }
    }

    fn run(&self) -> Result<(), Failure> {
        let mut patience = UploadPatience {
            shared: self.shared,
            terminal: &self.task.terminal,
            away: None,
        };
        let end = self.send(&mut patience);
        // At the end of a run, the run itself says what is left.
        let ending = self.shared.state().until.is_some();
        if let Err(failure) = &end
            && !ending
        {
            self.task.terminal.warn(&format!(
                "nothing more is sent: {failure}. Training goes on, and its data is kept in {}",
                self.task.dir.display()
            ));
        }
        end
    }

    fn send(&self, patience: &mut UploadPatience<'_>) -> Result<(), Failure> {
        let task = self.task;
        let invalid = |error| Failure::Invalid(format!("{}: {error}", task.dir.display()));
        let mut part = Part::open(&task.dir).map_err(invalid)?;
        let mut link = Link::open(&task.account, &part.start, patience)?;
        task.terminal.note(&format!("run at {}", link.page()));
        self.shared.state().page = Some(link.page().to_owned());
        for (dir, _) in &task.earlier {
            // An earlier file that cannot be read must not stop the run in progress.
            if let Ok(mut part) = Part::open(dir) {
                link.seek_unsent(&mut part);
                while !link.send(&mut part, u64::MAX, patience)?.is_empty() {}
                link.save_progress(&mut part);
            }
        }
        link.seek_unsent(&mut part);
        loop {
            let limit = self.await_more(part.reader.at());
            let batch = link.send(&mut part, limit, patience)?;
            if let Some(finish) = batch.finish {
                let how = if finish.state == 0 {
                    state::FINISHED
                } else {
                    finish.state
                };
                link.finish(&mut part, how, patience)?;
                if let Some(complaint) = &link.complaint {
                    self.task.terminal.warn(&format!(
                        "{} shipments were not taken: {complaint}",
                        link.refused
                    ));
                }
                return Ok(());
            }
            if batch.is_empty() && part.reader.at() < limit && self.shared.state().until.is_some() {
                return Err(invalid(std::io::Error::other("the file is damaged")));
            }
            link.keep_alive(patience)?;
        }
    }

    /// Waits until the file has more than what was sent, and a little longer for a shipment to fill.
    fn await_more(&self, sent: u64) -> u64 {
        let mut state = self.shared.state();
        let rest = Instant::now() + REST;
        while state.written <= sent && state.until.is_none() && Instant::now() < rest {
            state = self.shared.sleep(state, REST);
        }
        let full = Instant::now() + self.task.interval;
        while state.until.is_none() && Instant::now() < full {
            let left = full.saturating_duration_since(Instant::now());
            state = self.shared.sleep(state, left);
        }
        state.written
    }
}

/// A run waits for its server as long as it goes on; a wait that takes longer than a moment is told once.
struct UploadPatience<'a> {
    shared: &'a Shared,
    terminal: &'a Terminal,
    /// Since when the server is away, and whether a warning has told it.
    away: Option<(Instant, bool)>,
}

impl Patience for UploadPatience<'_> {
    fn again(&mut self, failure: &Failure, tried: u32) -> bool {
        let (since, is_told) = self.away.get_or_insert_with(|| (Instant::now(), false));
        if since.elapsed() >= MOMENT && !*is_told {
            *is_told = true;
            self.terminal.warn(&format!(
                "{failure}. Training goes on; what it logs is kept and sent when the server answers"
            ));
        }
        // A server that has not answered for long is asked less often.
        let most = match since.elapsed() > LONG {
            true => pause(failure, tried).max(Duration::from_secs(30)),
            false => pause(failure, tried),
        };
        let mut state = self.shared.state();
        let ending = state.until.is_some();
        let wake = Instant::now() + most;
        loop {
            let now = Instant::now();
            match state.until {
                Some(until) if now >= until => return false,
                // The run ended during the wait: one more try at once.
                Some(_) if !ending => return true,
                _ if now >= wake => return true,
                until => {
                    let next = until.map_or(wake, |until| wake.min(until));
                    state = self.shared.sleep(state, next - now);
                }
            }
        }
    }

    fn succeeded(&mut self) {
        if let Some((since, true)) = self.away.take() {
            let seconds = since.elapsed().as_secs();
            self.terminal
                .note(&format!("the server answers again, after {seconds} s"));
        }
    }
}
