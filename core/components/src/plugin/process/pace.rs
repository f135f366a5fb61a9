//! How many calls go in a line.
//!
//! A line costs a program and this process a few switches between threads, so calls that take microseconds go by the hundred.
//! Calls that take long go alone: the time limit is for a line, and an answer that is on its way helps nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a line should take.
const LINE: Duration = Duration::from_millis(20);
/// The most calls of a line.
const MOST: u64 = 256;

/// How long calls of one component took.
#[derive(Default)]
pub struct Pace {
    /// Nanoseconds of a call in the last line; 0 as long as none is known.
    call: AtomicU64,
}

impl Pace {
    /// How many calls the next line has: the first one has one.
    pub fn next(&self) -> usize {
        match self.call.load(Ordering::Relaxed) {
            0 => 1,
            call => (LINE.as_nanos() as u64 / call).clamp(1, MOST) as usize,
        }
    }

    /// A line of so many calls took so long.
    pub fn took(&self, calls: usize, time: Duration) {
        let call = time.as_nanos() / calls.max(1) as u128;
        let call = u64::try_from(call).unwrap_or(u64::MAX).max(1);
        self.call.store(call, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_calls_go_together_and_slow_ones_alone() {
        let pace = Pace::default();
        assert_eq!(pace.next(), 1);
        pace.took(1, Duration::from_millis(1));
        assert_eq!(pace.next(), 20);
        pace.took(20, Duration::from_micros(20));
        assert_eq!(pace.next(), 256);
        pace.took(256, Duration::from_secs(256));
        assert_eq!(pace.next(), 1);
        pace.took(1, Duration::ZERO);
        assert_eq!(pace.next(), 256);
    }
}
