//! Lines for people; a line that cannot be written fails nothing.
//!
//! `println!` and `eprintln!` panic when they cannot write: behind `| head`, on a terminal that was closed, on a full
//! disk. A run must not end because nobody reads its output, so everything here writes in one piece and drops
//! what cannot be written.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write, stderr, stdout};
use std::sync::{Mutex, PoisonError};

/// Why standard output could not be written, the first time.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Writes to standard output; [`out!`](crate::out) and [`outln!`](crate::outln) are short for it.
pub fn write_out(text: Arguments<'_>) {
    let text = text.to_string();
    let mut out = stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written {
        FAILED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}

/// Writes to standard error; [`errln!`](crate::errln) is short for it.
pub fn write_err(text: Arguments<'_>) {
    // In one write, so that lines of other threads do not get into it.
    let _ = stderr().write_all(text.to_string().as_bytes());
}

/// Why something is missing from standard output, for a command that writes its result there. It is no failure that
/// the reader of the output has ended.
pub fn output_failed() -> Option<Error> {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed.filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// `print!` that cannot fail.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => { $crate::lines::write_out(::std::format_args!($($arg)*)) };
}

/// `println!` that cannot fail.
#[macro_export]
macro_rules! outln {
    () => { $crate::lines::write_out(::std::format_args!("\n")) };
    ($($arg:tt)*) => {
        $crate::lines::write_out(::std::format_args!("{}\n", ::std::format_args!($($arg)*)))
    };
}

/// `eprintln!` that cannot fail.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => {
        $crate::lines::write_err(::std::format_args!("{}\n", ::std::format_args!($($arg)*)))
    };
}
