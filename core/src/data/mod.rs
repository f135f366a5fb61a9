//! Dataset files to batches of tokens.
//!
//! Files are read into records with their line numbers ([`file`]), sampled and split ([`source`]),
//! turned into samples by a dataset format ([`format`]), encoded on all cores with a report of what
//! was dropped and why ([`prepare`], [`report`]), and handed out in a reproducible order
//! ([`sampler`]) as batches without padding ([`batch`]).

pub mod batch;
pub mod file;
pub mod format;
pub mod prepare;
pub mod report;
pub mod rng;
pub mod sampler;
pub mod source;
pub mod truncate;

pub use batch::{Batch, Rows};
pub use file::Record;
pub use format::Formats;
pub use prepare::{Dataset, PrepareOptions, prepare, samples};
pub use report::Report;
pub use sampler::Sampler;
pub use source::{Sets, SourceOptions, read_sets};
pub use truncate::Truncation;
