//! Lines of a plugin for people, which its host prints: below its progress bar, and into its log.

use abi_stable::StableAbi;
use abi_stable::std_types::RStr;
use std::sync::OnceLock;

/// How a host prints a line.
#[repr(C)]
#[derive(StableAbi)]
pub struct WireLines {
    warn: extern "C" fn(RStr<'_>),
}

/// In a plugin: its host's.
static OF_HOST: OnceLock<WireLines> = OnceLock::new();

/// In a host: how it prints.
static WARN: OnceLock<fn(&str)> = OnceLock::new();

/// Has warnings of plugins printed by this function; without one they go to standard error.
#[doc(hidden)]
pub fn print_warnings_by(warn: fn(&str)) {
    // Whoever was first has given the same.
    let _ = WARN.set(warn);
}

impl WireLines {
    /// This host's.
    pub(super) fn give() -> Self {
        extern "C" fn warn(text: RStr<'_>) {
            match WARN.get() {
                Some(warn) => warn(text.as_str()),
                None => crate::errln!("{text}"),
            }
        }
        Self { warn }
    }
}

/// The host prints by these.
pub(super) extern "C" fn follow(lines: WireLines) {
    let _ = OF_HOST.set(lines);
}

/// Prints a warning through the host; on standard error where the host is one of SDK 1.0.
pub(super) fn warn(text: &str) {
    match OF_HOST.get() {
        Some(lines) => (lines.warn)(text.into()),
        None => crate::errln!("warning: {text}"),
    }
}
