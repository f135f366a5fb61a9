//! Shared basics of the engine's crates: lines for people, signals, checksums, folders that are replaced at once, the memory of
//! the process, the component it is in, work that is abandoned at a limit, and words of messages.

// `println!` panics when the other end of the pipe is closed; `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod checksums;
pub mod crashes;
pub mod doing;
pub mod folder;
pub mod interrupts;
pub mod limits;
pub mod lines;
pub mod memory;
pub mod panics;
pub mod signals;
pub mod watchdog;
pub mod wording;
