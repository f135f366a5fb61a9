//! Ctrl-C, SIGTERM, and the SIGHUP of a closing terminal. At the first one, a run saves what was trained and ends. At
//! the second one, the process ends at once.
//!
//! Long work calls [`check`] between its parts: micro-batches, batches of an evaluation, tokens of an answer. Work that
//! is interrupted there is discarded, so a run saves without waiting for it.

use crate::lines;
use apus_sdk::Level;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether this process itself has got a signal.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// The error of work that a signal interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal has cut this off")
    }
}

impl std::error::Error for Interrupted {}

/// Whether there is nothing to save yet.
static NOTHING_TO_SAVE: AtomicBool = AtomicBool::new(false);

/// Until [`catch`] is called, the process ends at once at a signal, in the same way at each of them: what has started it may pass
/// on one that would end it as if it had crashed.
pub fn leave_until_caught() -> anyhow::Result<()> {
    NOTHING_TO_SAVE.store(true, Ordering::SeqCst);
    install()
}

/// Catches the signals from now on. `restore` puts the terminal back before the process ends at once.
pub fn catch(restore: fn()) -> anyhow::Result<()> {
    catch_and_say(restore, SAVING)
}

/// Catches the signals from now on; at the first one `said` is printed.
pub fn catch_and_say(restore: fn(), said: &'static str) -> anyhow::Result<()> {
    // Whoever was first has given the same.
    let _ = RESTORE.set(restore);
    let _ = SAID.set(said);
    install()?;
    NOTHING_TO_SAVE.store(false, Ordering::SeqCst);
    Ok(())
}

static RESTORE: OnceLock<fn()> = OnceLock::new();

/// What is said at the first signal.
static SAID: OnceLock<&str> = OnceLock::new();

const SAVING: &str =
    "stopping: the last whole step is saved; once more to leave at once without saving";

fn install() -> anyhow::Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        on_signal(move || {
            let again = SIGNALLED.swap(true, Ordering::SeqCst);
            if again || NOTHING_TO_SAVE.load(Ordering::SeqCst) {
                if let Some(restore) = RESTORE.get() {
                    restore();
                }
                std::process::exit(130);
            }
            ask();
        })
        .map_err(|e| e.to_string())
    })
    .clone()
    .map_err(|e| anyhow::anyhow!(e))
}

/// Lets long work end as after a signal. A signal that comes later is the first one all the same.
pub fn ask() {
    if ASKED.swap(true, Ordering::SeqCst) {
        return;
    }
    // On a thread of its own: a terminal that blocks must not keep the next signal away.
    std::thread::spawn(|| {
        lines::line(Level::Warning, SAID.get().unwrap_or(&SAVING));
    });
}

/// Calls `handler` at each of the signals. A SIGHUP that is ignored, as under `nohup`, stays ignored.
pub fn on_signal(handler: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let ignored = hangup::is_ignored();
    let handler = std::sync::Arc::new(std::sync::Mutex::new(handler));
    let call = move || {
        let mut handler = handler
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        handler();
    };
    #[cfg(unix)]
    on_user_signal(call.clone())?;
    ctrlc::set_handler(call).map_err(|e| anyhow::anyhow!("cannot catch Ctrl-C: {e}"))?;
    if ignored {
        hangup::ignore();
    }
    Ok(())
}

/// Calls `handler` at each SIGUSR1, the one signal that mpirun passes on to what it has started.
#[cfg(unix)]
fn on_user_signal(handler: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([libc::SIGUSR1])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|_| handler()))?;
    Ok(())
}

/// Whether a signal came.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Interrupts long work after a signal.
///
/// # Errors
/// A signal came.
pub fn check() -> Result<(), Interrupted> {
    match asked() {
        true => Err(Interrupted),
        false => Ok(()),
    }
}

/// Whether an error means no more than that a signal came.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Interrupted>().is_some()
}

#[cfg(unix)]
mod hangup {
    pub(super) fn is_ignored() -> bool {
        // SAFETY: without a new action, sigaction only writes the present one into the place it is given, for which
        // zeros are a value.
        unsafe {
            let mut present = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0
                && present.sa_sigaction == libc::SIG_IGN
        }
    }

    pub(super) fn ignore() {
        // SAFETY: no code runs at a signal that is ignored.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
    }
}

#[cfg(not(unix))]
mod hangup {
    pub(super) fn is_ignored() -> bool {
        false
    }

    pub(super) fn ignore() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_interruption_is_known_under_what_was_added_to_it() {
        let cut = Err::<(), _>(Interrupted).context("step 3").context("run");
        assert!(is_interrupted(&cut.unwrap_err()));
        assert!(!is_interrupted(&anyhow::anyhow!(
            "a signal has cut this off"
        )));
        assert_eq!(check(), Ok(()));
    }
}
