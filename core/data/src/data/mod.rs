//! Turns dataset files into tokens with labels and weights.
//!
//! Files are read into records with their line numbers ([`mod@file`]), sampled, split and mixed ([`source`],
//! [`interleave`]), their columns renamed ([`columns`]), turned into samples by a dataset format
//! ([`mod@format`]), encoded on all cores with a report of what was dropped and why ([`mod@prepare`],
//! [`report`]), and on request packed into rows ([`mod@pack`]) or kept for the next run ([`cache`]). Data larger than
//! memory goes the same way row by row ([`stream`]).

pub mod cache;
pub mod channels;
pub mod columns;
mod empty;
pub mod file;
pub mod format;
pub mod interleave;
pub mod named;
mod not_text;
mod of_columns;
mod outcome;
pub mod pack;
pub mod prepare;
pub mod progress;
pub mod reads;
pub mod report;
pub mod rng;
pub mod source;
pub mod stream;
pub mod truncate;
pub mod unused;

pub use cache::DataCache;
pub use columns::Columns;
pub use file::{Record, RowLocation};
pub use format::Formats;
pub use interleave::{Mix, StoppingStrategy};
pub use prepare::{Dataset, PrepareOptions, converted, prepare};
pub use reads::Reads;
pub use report::Report;
pub use source::{Sets, SourceOptions, read_needed_sets, read_sets};
pub use stream::{Stream, StreamOptions};
pub use truncate::Truncation;
