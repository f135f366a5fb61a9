//! How far an export is: a bar on a terminal once it takes longer than a second, and a line with its speed at the end.

use apus_sdk::errln;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Once;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1);

/// The progress of bytes that are written.
pub struct Writing {
    bar: ProgressBar,
    started: Instant,
    shown: Once,
}

impl Writing {
    /// Makes a bar for so many bytes, hidden at first.
    pub fn start(bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
        let style =
            "{bar:30} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta}";
        let style = ProgressStyle::with_template(style);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            started: Instant::now(),
            shown: Once::new(),
        }
    }

    /// Counts bytes that are written.
    pub fn wrote(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if !self.shown.is_completed() && self.started.elapsed() > PATIENCE {
            self.shown.call_once(|| {
                if std::io::stderr().is_terminal() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            });
        }
    }

    /// Says how long everything took.
    pub fn done(&self) {
        self.bar.finish_and_clear();
        errln!("{}", summary(self.bar.position(), self.started.elapsed()));
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A message about so many bytes that took so long.
fn summary(bytes: u64, time: Duration) -> String {
    let (gb, seconds) = (bytes as f64 / 1e9, time.as_secs_f64());
    let size = match gb {
        gb if gb >= 0.1 => format!("{gb:.1} GB"),
        gb => format!("{:.1} MB", gb * 1e3),
    };
    let rate = gb / seconds.max(1e-9);
    format!("{size} in {seconds:.1} s ({rate:.2} GB/s)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people() {
        let line = |bytes, seconds| summary(bytes, Duration::from_secs_f64(seconds));
        assert_eq!(line(41_860_000_000, 52.3), "41.9 GB in 52.3 s (0.80 GB/s)");
        assert_eq!(line(830_000, 0.04), "0.8 MB in 0.0 s (0.02 GB/s)");
    }
}
