//! Runs work on another thread and abandons it when it takes too long or too much memory.
//!
//! It is for code of other crates, which offers no way to stop it from within.

use crate::memory;
use std::{
    cell::RefCell,
    io,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

/// How often the limits of running work are checked.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// The stack of a working thread. It is large because deeply nested values are dropped by recursion; only the
/// part that is used takes memory.
const STACK: usize = 128 << 20;

/// The limits of a piece of work.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the start to the end.
    pub time: Duration,
    /// By how many bytes the process may grow meanwhile. It is not checked where the system does not tell the size.
    pub memory: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Abandoned {
    /// A limit was passed.
    #[error("it took too long or too much memory")]
    TooMuch,
    /// The work panicked.
    #[error("it panicked")]
    Panicked,
    /// No thread could be started.
    #[error("no thread can be started: {0}")]
    NoThread(io::Error),
}

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The working thread of this thread, kept for the next piece of work.
    static WORKER: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

fn start() -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || jobs.into_iter().for_each(|job| job());
    let thread = thread::Builder::new().stack_size(STACK);
    thread.name("apus-watched".to_owned()).spawn(work)?;
    Ok(sender)
}

/// The result of work on another thread. A thread that is given up on is left behind: nothing can stop it
/// but the end of the process, so that the caller has to see to it that this comes soon.
///
/// # Errors
/// The work took more than `limits`, or panicked.
pub fn run_limited<T: Send + 'static>(
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Abandoned> {
    let worker = match WORKER.take() {
        Some(worker) => worker,
        None => start().map_err(Abandoned::NoThread)?,
    };
    let (done, result) = mpsc::sync_channel(1);
    let job = move || {
        // Whoever gave up does not listen any more.
        let _ = done.send(work());
    };
    if worker.send(Box::new(job)).is_err() {
        return Err(Abandoned::Panicked);
    }
    let started = Instant::now();
    let mut before = None;
    loop {
        match result.recv_timeout(CHECK_EVERY) {
            Ok(result) => {
                WORKER.set(Some(worker));
                return Ok(result);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Abandoned::Panicked),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = memory::resident().unwrap_or(0);
        let grown = now.saturating_sub(*before.get_or_insert(now));
        if started.elapsed() > limits.time || grown > limits.memory {
            return Err(Abandoned::TooMuch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_millis(300),
        memory: 64 << 20,
    };

    #[test]
    fn work_is_done_on_one_other_thread() {
        let id = || run_limited(LIMITS, || thread::current().id()).unwrap();
        assert_eq!(id(), id());
        assert_ne!(id(), thread::current().id());
    }

    #[test]
    fn what_takes_too_long_is_left_behind() {
        let sleeps = || thread::sleep(Duration::from_secs(5));
        assert!(matches!(
            run_limited(LIMITS, sleeps),
            Err(Abandoned::TooMuch)
        ));
        assert_eq!(run_limited(LIMITS, || 1).unwrap(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_takes_too_much_memory_is_left_behind() {
        let limits = Limits {
            time: Duration::from_secs(30),
            ..LIMITS
        };
        let grows = || {
            let mut held = Vec::new();
            while held.len() < 40 {
                held.push(vec![1u8; 8 << 20]);
                thread::sleep(Duration::from_millis(20));
            }
            held.len()
        };
        assert!(matches!(
            run_limited(limits, grows),
            Err(Abandoned::TooMuch)
        ));
    }
}
