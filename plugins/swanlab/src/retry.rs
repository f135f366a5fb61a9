//! Retries: how long to wait is decided by the caller, which is a run or a command that a person watches.

use super::http::Failure;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a caller waits between tries.
pub trait Patience {
    /// Waits after a temporary failure, the `tried`-th in a row (from 0); false gives up.
    fn again(&mut self, failure: &Failure, tried: u32) -> bool;

    /// A try succeeded.
    fn succeeded(&mut self) {}
}

/// Tries an action until it succeeds, fails for good, or the caller gives up.
pub fn retry<T>(
    patience: &mut dyn Patience,
    mut act: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut tried = 0;
    loop {
        match act() {
            Ok(done) => {
                patience.succeeded();
                return Ok(done);
            }
            Err(failure) if failure.is_temporary() && patience.again(&failure, tried) => tried += 1,
            Err(failure) => return Err(failure),
        }
    }
}

/// The pause before another try: 1, 2, 4, 8, then 10 seconds, give or take a fifth; the time that the server asks for goes before,
/// up to a minute.
pub fn pause(failure: &Failure, tried: u32) -> Duration {
    if let Failure::Refused {
        after: Some(seconds),
        ..
    } = failure
    {
        return Duration::from_secs((*seconds).min(60));
    }
    let whole = Duration::from_secs(1 << tried.min(4)).min(Duration::from_secs(10));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let chance = clock.map_or(0, |time| time.subsec_nanos()) % 1000;
    whole.mul_f64(0.8 + 0.4 * f64::from(chance) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Times(u32, u32);
    impl Patience for Times {
        fn again(&mut self, _failure: &Failure, tried: u32) -> bool {
            assert_eq!(tried, self.1);
            self.1 += 1;
            self.1 <= self.0
        }
    }

    fn status(status: u16, after: Option<u64>) -> Failure {
        Failure::Refused {
            status,
            message: String::new(),
            after,
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        let mut left = 3;
        let done = retry(&mut Times(5, 0), || {
            left -= 1;
            if left == 0 {
                Ok(7)
            } else {
                Err(status(429, None))
            }
        });
        assert_eq!(done.unwrap(), 7);
        let mut calls = 0;
        let failed = retry(&mut Times(2, 0), || {
            calls += 1;
            Err::<(), _>(status(503, None))
        });
        assert!(failed.is_err() && calls == 3);
        let mut calls = 0;
        let failed = retry(&mut Times(2, 0), || {
            calls += 1;
            Err::<(), _>(status(404, None))
        });
        assert!(failed.is_err() && calls == 1);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let seconds = |failure, tried| pause(&failure, tried).as_secs_f64();
        assert!((0.8..=1.2).contains(&seconds(status(503, None), 0)));
        assert!((8.0..=12.0).contains(&seconds(status(503, None), 30)));
        assert_eq!(seconds(status(429, Some(3)), 0), 3.0);
        assert_eq!(seconds(status(429, Some(3600)), 0), 60.0);
    }
}
