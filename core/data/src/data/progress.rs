//! Shows the progress of preparing data: on a terminal, and only if it takes longer than a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::Once,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(1);

/// The progress of the rows that are being prepared.
pub struct Preparing {
    bar: ProgressBar,
    started: Instant,
    shown: Once,
}

impl Preparing {
    /// Makes a bar for so many rows, hidden at first.
    pub fn start(rows: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(rows as u64), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {per_sec}  {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            started: Instant::now(),
            shown: Once::new(),
        }
    }

    /// Counts a row that is ready.
    pub fn one_more(&self) {
        self.bar.inc(1);
        if !self.shown.is_completed() && self.started.elapsed() > PATIENCE {
            self.shown.call_once(|| {
                if std::io::stderr().is_terminal() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            });
        }
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
