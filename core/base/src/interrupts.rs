//! Ctrl-C in a conversation at the terminal: it stops an answer and not the program.
//!
//! Every other signal ends the process as ever. Whoever reads a line key by key has changed the terminal meanwhile, so it is
//! put back first: it would show nothing of what is typed afterwards.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

fn pressed() -> &'static Arc<AtomicBool> {
    static PRESSED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    PRESSED.get_or_init(Arc::default)
}

/// Whether Ctrl-C was pressed since this was asked last.
pub fn take() -> bool {
    pressed().swap(false, Ordering::SeqCst)
}

/// From now on, Ctrl-C is only noted.
///
/// # Errors
/// The system does not let signals be caught.
pub fn catch() -> Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = ONCE.get_or_init(|| install().map_err(|error| format!("{error:#}")));
    done.clone().map_err(anyhow::Error::msg)
}

#[cfg(unix)]
fn install() -> Result<()> {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::{flag, iterator::Signals, low_level};

    flag::register(SIGINT, Arc::clone(pressed())).context("cannot catch Ctrl-C")?;
    let Ok(before) = tcgetattr(rustix::stdio::stdin()) else {
        return Ok(());
    };
    let mut ends = Signals::new([SIGTERM]).context("cannot catch SIGTERM")?;
    let put_back = move || {
        if ends.forever().next().is_some() {
            // The process ends, whether or not the terminal is still there.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
            let _ = rustix::io::write(rustix::stdio::stdout(), b"\x1b[?2004l\x1b[0m\n");
            let _ = low_level::emulate_default_handler(SIGTERM);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(put_back)?;
    Ok(())
}

#[cfg(not(unix))]
fn install() -> Result<()> {
    ctrlc::set_handler(|| pressed().store(true, Ordering::SeqCst)).context("cannot catch Ctrl-C")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_noted_once() {
        catch().unwrap();
        assert!(!take());
        signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap();
        assert!(take() && !take());
    }
}
