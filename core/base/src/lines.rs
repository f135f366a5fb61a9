//! Lines for people: what [`info!`] and [`warning!`] print on standard error and hand to a follower.
//!
//! A progress bar or panel on the terminal prints the lines itself, so that they do not overwrite it.
//!
//! Trackers follow the lines, but they exist only once the run has started. The newest `KEPT` lines from before
//! are kept for them.

pub use apus_sdk::Level;
use apus_sdk::errln;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many lines wait for a follower.
const KEPT: usize = 500;

type Follower = Box<dyn Fn(Level, &str) + Send>;

/// The follower of the lines, or the lines that wait for one.
struct Lines {
    waiting: VecDeque<(Level, String)>,
    follower: Option<Follower>,
}

impl Lines {
    const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            follower: None,
        }
    }

    fn push(&mut self, level: Level, text: &str) {
        for line in text.lines() {
            match &self.follower {
                Some(follower) => follower(level, line),
                None => {
                    if self.waiting.len() == KEPT {
                        self.waiting.pop_front();
                    }
                    self.waiting.push_back((level, line.to_owned()));
                }
            }
        }
    }

    fn follow(&mut self, follower: Follower) {
        for (level, line) in std::mem::take(&mut self.waiting) {
            follower(level, &line);
        }
        self.follower = Some(follower);
    }
}

static LINES: Mutex<Lines> = Mutex::new(Lines::new());

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

type Printer = Arc<dyn Fn(&str) + Send + Sync>;

static PRINTER: Mutex<Option<Printer>> = Mutex::new(None);

/// Sets what writes lines to the terminal. With `None` they go to standard error.
pub fn print_by(printer: Option<Printer>) {
    *PRINTER.lock().unwrap_or_else(PoisonError::into_inner) = printer;
}

/// Prints the text and hands it to the follower, line by line.
pub fn line(level: Level, text: &str) {
    let printer = PRINTER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match printer {
        Some(print) => print(text),
        None => errln!("{text}"),
    }
    lines().push(level, text);
}

/// Hands every line to `follower`: those that wait now, the others as they are printed.
///
/// The follower must print no line itself: it is called under the lock that printing takes.
pub fn follow(follower: impl Fn(Level, &str) + Send + 'static) {
    lines().follow(Box::new(follower));
}

/// Removes the follower; lines are only printed from then on.
pub fn unfollow() {
    lines().follower = None;
}

/// Prints a line about what happens: `info!("data: {report}")`.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::lines::line($crate::lines::Level::Info, &format!($($arg)*)) };
}

/// Prints a line about what was repaired or left out, with `warning: ` before it.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => {
        $crate::lines::line($crate::lines::Level::Warning, &format!("warning: {}", format_args!($($arg)*)))
    };
}

pub use {info, warning};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_a_follower() {
        let mut lines = Lines::new();
        for number in 0..KEPT {
            lines.push(Level::Info, &format!("{number}\nagain"));
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&heard);
        lines.follow(Box::new(move |level, line| {
            keep.lock().unwrap().push((level, line.to_owned()));
        }));
        lines.push(Level::Warning, "after");
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), KEPT + 1);
        assert_eq!(heard[0], (Level::Info, format!("{}", KEPT / 2)));
        assert_eq!(heard[KEPT], (Level::Warning, "after".to_owned()));
    }
}
