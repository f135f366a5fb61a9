//! Dataset files to tokens with labels and weights.
//!
//! Files are read into records with their line numbers ([`file`]), sampled and split ([`source`]),
//! turned into samples by a dataset format ([`format`]), encoded on all cores with a report of what
//! was dropped and why ([`prepare`], [`report`]), and on request packed into rows ([`pack`]) or kept for
//! the next run ([`cache`]).

pub mod cache;
pub mod file;
pub mod format;
pub mod pack;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod rng;
pub mod source;
pub mod truncate;

pub use cache::Cache;
pub use file::{Place, Record};
pub use format::Formats;
pub use prepare::{Dataset, PrepareOptions, prepare, samples};
pub use report::Report;
pub use source::{Sets, SourceOptions, read_sets};
pub use truncate::Truncation;
