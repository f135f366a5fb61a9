//! Pictures of a run's curves and its report, drawn beside the training: looking at a run must never harm it.

use anyhow::Result;
use apus_base::lines;
use apus_board::draw::{Picture, pictures};
use apus_board::report;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Draws pictures of what a run's folder holds, on request.
pub struct Pictures {
    run_dir: PathBuf,
    asked: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Pictures {
    /// Starts the thread that draws; none where no thread can be started.
    pub fn new(run_dir: &Path) -> Option<Self> {
        let (asked, requests) = sync_channel(1);
        let dir = run_dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("pictures".to_owned())
            .spawn(move || draw_when_asked(&dir, &requests))
            .ok()?;
        Some(Self {
            run_dir: run_dir.to_owned(),
            asked,
            thread,
        })
    }

    /// Draws on a thread of its own; while that is busy one more request waits, further ones are dropped.
    pub fn draw(&self) {
        let _ = self.asked.try_send(());
    }

    /// The last pictures.
    pub fn finish(self) -> (Vec<Picture>, Report) {
        drop(self.asked);
        let _ = self.thread.join();
        let drawn = guarded("pictures", || pictures(&self.run_dir));
        (drawn.unwrap_or_default(), Report(self.run_dir))
    }
}

/// The report of a run whose files are all written.
pub struct Report(PathBuf);

impl Report {
    /// Writes the report.
    pub fn write(self) {
        guarded("report.html", || report::of_run(&self.0));
    }
}

fn draw_when_asked(run_dir: &Path, requests: &Receiver<()>) {
    for () in requests {
        guarded("pictures", || pictures(run_dir));
    }
}

/// Runs `act`; an error or a panic becomes a warning.
fn guarded<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            lines::warning!("{what}: {error:#}");
            None
        }
        Err(_) => {
            lines::warning!("{what}: cannot be drawn; the run goes on");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn curves_and_the_report_are_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let line =
            |step, loss| format!("{{\"loss\": {loss}, \"global_step/max_steps\": \"{step}/2\"}}\n");
        fs::write(dir.path().join("logging.jsonl"), line(1, 2.0)).unwrap();
        let pictures = Pictures::new(dir.path()).unwrap();
        (0..5).for_each(|_| pictures.draw());
        fs::write(
            dir.path().join("logging.jsonl"),
            line(1, 2.0) + &line(2, 1.0),
        )
        .unwrap();
        let (drawn, report) = pictures.finish();
        assert_eq!(drawn[0].scalar, "loss");
        assert_eq!(
            fs::read(dir.path().join("images/train_loss.png")).unwrap(),
            drawn[0].png
        );
        report.write();
        assert!(dir.path().join("report.html").is_file());
    }

    #[test]
    fn a_folder_that_is_gone_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = Pictures::new(dir.path()).unwrap();
        pictures.draw();
        drop(dir);
        let (drawn, report) = pictures.finish();
        assert!(drawn.is_empty());
        report.write();
    }
}
