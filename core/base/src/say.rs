//! Lines for people: on standard error, and for whoever follows the run.
//!
//! A bar or panel on the terminal prints them in its own way, so that they do not run into it.
//!
//! What is said before a run has trackers is kept for them, as far as it is the end of a short story: the newest
//! lines of a bounded number.

pub use apus_sdk::Level;
use apus_sdk::errln;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many lines wait for a follower.
const KEPT: usize = 500;

type Follower = Box<dyn Fn(Level, &str) + Send>;

/// Those who speak and one who follows.
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

    fn say(&mut self, level: Level, text: &str) {
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

/// Lets `printer` write lines to the terminal, or with none standard error.
pub fn print_by(printer: Option<Printer>) {
    *PRINTER.lock().unwrap_or_else(PoisonError::into_inner) = printer;
}

/// A line; more than one if the text has more.
pub fn line(level: Level, text: &str) {
    let printer = PRINTER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match printer {
        Some(print) => print(text),
        None => errln!("{text}"),
    }
    lines().say(level, text);
}

/// Hands every line to `follower`, those that wait at once. It must not speak itself.
pub fn follow(follower: impl Fn(Level, &str) + Send + 'static) {
    lines().follow(Box::new(follower));
}

/// Lines go to standard error alone again.
pub fn unfollow() {
    lines().follower = None;
}

/// Says what happens: `info!("data: {report}")`.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::say::line($crate::say::Level::Info, &format!($($arg)*)) };
}

/// Says what was mended or left out, with `warning: ` before it.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => {
        $crate::say::line($crate::say::Level::Warning, &format!("warning: {}", format_args!($($arg)*)))
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
            lines.say(Level::Info, &format!("{number}\nagain"));
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&heard);
        lines.follow(Box::new(move |level, line| {
            keep.lock().unwrap().push((level, line.to_owned()));
        }));
        lines.say(Level::Warning, "after");
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), KEPT + 1);
        assert_eq!(heard[0], (Level::Info, format!("{}", KEPT / 2)));
        assert_eq!(heard[KEPT], (Level::Warning, "after".to_owned()));
    }
}
