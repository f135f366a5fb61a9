//! A tracker on its own thread, behind a queue.

use crate::train::screen::Screen;
use apus_components::registry::Named;
use apus_sdk::{EndState, Level, RunInfo, Tracker, errln};
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most reports that wait for one tracker.
pub(super) const QUEUE: usize = 1024;

/// A tracker's queue and thread.
pub(super) struct Line {
    label: String,
    queue: Option<SyncSender<Arc<Report>>>,
    thread: Option<JoinHandle<()>>,
    lost: u64,
}

/// What is reported to a tracker.
pub(super) enum Report {
    Start(Box<RunInfo>),
    Log(u64, Map<String, Value>),
    Text(u64, String, String),
    Image(u64, String, Vec<u8>),
    Line(Level, String),
    System(Map<String, Value>),
    Saved(u64, PathBuf),
    Finish(EndState),
    /// A barrier: everything before it is done once every tracker has dropped it.
    Settled(#[expect(dead_code, reason = "it is dropped, nothing more")] Sender<()>),
}

impl Line {
    /// Starts the tracker's thread.
    pub(super) fn new(tracker: Named<dyn Tracker>, screen: Screen) -> Self {
        let (queue, reports) = sync_channel(QUEUE);
        let label = tracker.label.clone();
        let work = move || work(tracker, &reports, &screen);
        let spawned = std::thread::Builder::new()
            .name(format!("tracker {label}"))
            .spawn(work);
        if let Err(error) = &spawned {
            errln!("warning: {label} has no thread and is left out: {error}");
        }
        Self {
            label,
            queue: spawned.is_ok().then_some(queue),
            thread: spawned.ok(),
            lost: 0,
        }
    }

    /// Queues a report; a full queue loses it.
    pub(super) fn offer(&mut self, report: &Arc<Report>) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Arc::clone(report)) {
            Ok(()) => {}
            // It has failed, which was reported.
            Err(TrySendError::Disconnected(_)) => self.queue = None,
            Err(TrySendError::Full(_)) => {
                if self.lost == 0 {
                    errln!(
                        "warning: {} does not keep up: {QUEUE} reports wait for it, more are lost; the \
                         run goes on",
                        self.label
                    );
                }
                self.lost += 1;
            }
        }
    }

    /// Queues the last report, and takes no more.
    pub(super) fn close(&mut self, last: &Arc<Report>, until: Instant) {
        self.push(last, until);
        self.queue = None;
    }

    /// Queues a report that must not be lost, as long as there is time.
    fn push(&mut self, report: &Arc<Report>, until: Instant) {
        let Some(queue) = &self.queue else { return };
        while let Err(TrySendError::Full(_)) = queue.try_send(Arc::clone(report)) {
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the thread, as long as there is time.
    pub(super) fn join(&mut self, until: Instant) {
        if self.lost > 0 {
            errln!("warning: {} has lost {} reports", self.label, self.lost);
        }
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() {
            if Instant::now() >= until {
                errln!(
                    "warning: {} does not come to an end; it is left alone (tracker_timeout)",
                    self.label
                );
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join();
    }
}

/// Handles reports until there are no more, or one fails.
fn work(mut tracker: Named<dyn Tracker>, reports: &Receiver<Arc<Report>>, screen: &Screen) {
    // Holding back the screen for any other one would let that one's hanging stop the run.
    let terminal = tracker.component.on_terminal();
    for report in reports {
        let tracked = &mut tracker.component;
        let mut act = || match &*report {
            Report::Start(run) => tracked.start(run),
            Report::Log(step, values) => tracked.log(*step, values),
            Report::Text(step, name, text) => tracked.text(*step, name, text),
            Report::Image(step, name, png) => tracked.image(*step, name, png),
            Report::Line(level, line) => tracked.line(*level, line),
            Report::System(values) => tracked.system(values),
            Report::Saved(step, checkpoint) => tracked.saved(*step, checkpoint),
            Report::Finish(end) => tracked.finish(end),
            Report::Settled(_) => Ok(()),
        };
        let label = &tracker.label;
        let act = || match terminal {
            true => screen.suspend(act),
            false => act(),
        };
        let failed = match catch_unwind(AssertUnwindSafe(act)) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panicked".to_owned(),
        };
        // A plugin's error begins with its origin.
        let said = failed.strip_prefix(label.as_str()).unwrap_or(&failed);
        let said = said.trim_start_matches([',', ':', ' ']);
        screen.suspend(|| {
            errln!("warning: {label} failed and is left out from here on: {said}");
        });
        return;
    }
}
