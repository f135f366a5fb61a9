//! Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once.

use crate::say;
use apus_sdk::Level;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Catches the signals from now on.
///
/// # Errors
/// The operating system refuses the handler.
pub fn catch() -> anyhow::Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) {
                super::screen::restore();
                std::process::exit(130);
            }
            // On a thread of its own: a terminal that blocks must not keep the next signal away.
            std::thread::spawn(|| {
                say::line(
                    Level::Warning,
                    "stopping after this step; once more to leave at once without saving",
                );
            });
        })
        .map_err(|e| e.to_string())
    })
    .clone()
    .map_err(|e| anyhow::anyhow!("cannot catch Ctrl-C: {e}"))
}

/// Whether a signal came.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
