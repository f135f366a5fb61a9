//! The component traits of Apus.
//!
//! Everything that people want to change in a fine-tuning run is a *component*: one ordinary Rust
//! trait per kind, implemented by a type and made known with one line:
//!
//! ```
//! use apus_sdk::{LossScale, Result, Segment, Turn, options, register};
//!
//! options! {
//!     struct NoApology {}
//! }
//!
//! impl LossScale for NoApology {
//!     fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
//!         let weight = if text.starts_with("I'm sorry") { 0.0 } else { 1.0 };
//!         Ok(vec![Segment::new(text, weight)])
//!     }
//! }
//!
//! register! {
//!     /// Does not train answers that begin with an apology.
//!     LossScale, "no_apology", NoApology
//! }
//!
//! let found = apus_sdk::components().find(|c| c.name == "no_apology").unwrap();
//! assert_eq!(found.doc, "Does not train answers that begin with an apology.");
//! ```
//!
//! # Kinds
//!
//! | kind | trait | decides |
//! |---|---|---|
//! | dataset format | [`DatasetFormat`](trait@DatasetFormat) | which rows it recognises; a row to conversations |
//! | loss scale | [`LossScale`](trait@LossScale) | text of a turn to segments with weights |
//! | loss | [`Loss`](trait@Loss) | supervised tokens to a loss per token |
//! | optimizer | [`Optimizer`](trait@Optimizer) | one update of the trainable parameters |
//! | schedule | [`LrSchedule`](trait@LrSchedule) | the learning-rate factor at a step |
//! | callback | [`Callback`](trait@Callback) | reactions to training events |
//! | metric | [`Metric`](trait@Metric) | evaluation metrics |
//! | tracker | [`Tracker`](trait@Tracker) | where numbers, text and logs of a run go |
//! | exporter | [`Exporter`](trait@Exporter) | a folder made of a model's weights |
//! | tuner | [`Tuner`](trait@Tuner) | parameters added to layers, and what is computed with them |
//! | dataset | [`Dataset`](trait@Dataset) | what a name of data stands for: files or rows, and how they are read |
//! | sampler | [`Sampler`](trait@Sampler) | which rows an epoch trains, in which order and how often |
//!
//! # Where to go on
//!
//! | what | where |
//! |---|---|
//! | options with defaults, limits, flags of their own | [`options!`] |
//! | making a component known, and a library a plugin | [`register!`], [`export_plugin!`] |
//! | computing, on whatever device the run uses | [`Tensor`]: a handle whose operations the host carries out |
//! | what of a run a component sees and does, and how it says so | [`Need`], [`Run`], [`Setup`], [`Control`] |
//! | trying a component in `cargo test`, without a model | [`testing`] |
//!
//! What stands under "Blanket Implementations" of a type comes from the crate that carries components over the boundary of a
//! library, and says nothing about that type.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

// Macros of this crate name it as plugins do.
#[allow(unused_extern_crates)]
extern crate self as apus_sdk;

#[doc(hidden)]
pub mod abi;
#[doc(hidden)]
pub mod built_in;
mod callback;
mod chunk_rows;
mod control;
mod conversation;
mod dataset;
mod dataset_format;
mod error;
mod exporter;
pub mod json;
mod kinds;
pub mod lines;
mod loss;
mod loss_scale;
mod metric;
mod needs;
mod optimizer;
mod optimizer_step;
mod options;
mod piece;
mod question;
mod random;
mod registry;
mod run;
mod sampler;
mod schedule;
mod setup;
#[doc(hidden)]
pub mod small_file;
mod tensor;
pub mod testing;
mod tracker;
mod tuner;

pub use callback::{Callback, RunState};
pub use chunk_rows::{BatchRow, ChunkRows};
pub use control::{Control, Request};
pub use conversation::{Conversation, Message, Sample, TokenRow, ToolCall};
pub use dataset::{Dataset, DatasetSource};
pub use dataset_format::{Converted, DatasetFormat, Row, Unread};
pub use error::{Error, Result};
#[doc(hidden)]
pub use exporter::TensorSource;
pub use exporter::{ExportModel, ExportTensor, Exporter, Writes};
pub use kinds::Kind;
#[doc(hidden)]
pub use kinds::Make;
pub use loss::{ChunkOps, Loss, LossChunk};
pub use loss_scale::{Base, Field, LossScale, Segment, Turn};
pub use metric::{Decoder, EvalBatch, Metric, TextPair};
pub use needs::Need;
pub use optimizer::{AdamW, Optimizer, Param, State, StepInfo};
pub use optimizer_step::{OptimizerStep, ParameterGroup};
pub use options::{Describe, Limited, OptionDoc, Options, within};
pub use piece::Piece;
pub use question::{Answer, Question};
pub use random::Random;
pub use registry::{Component, components};
#[doc(hidden)]
pub use run::RunHost;
pub use run::{Parameter, Run};
pub use sampler::{Epoch, EpochRow, RowLoss, Sampler};
pub use schedule::{LrSchedule, Progress};
pub use setup::Setup;
pub use tensor::{DType, Element, Op, Tensor};
#[doc(hidden)]
pub use tensor::{Handle, TensorHost, TensorHostRef, Update, Wire};
pub use tracker::{EndState, Level, RunInfo, Tracker, log_path};
pub use tuner::{AddedParam, Init, LayerInfo, LayerKind, Tuner};

/// JSON values, which rows, logs and states are made of, in the version that this SDK speaks.
pub use serde_json;

/// What the macros of this crate need from the outside; not part of the API.
#[doc(hidden)]
pub mod private {
    pub use crate::abi::private::*;
    pub use crate::exporter::ExportAbout;
    pub use crate::needs::{checked, declare, note, require};
    pub use crate::options::{
        ByDescription, BySerde, Probe, Values, ValuesOfAny, allowed_flag, allowed_name,
        allowed_option, build, flags, option, read_as,
    };
    pub use crate::random::philox;
    pub use crate::run::no_parameter;
    pub use crate::sampler::{EpochAbout, EpochColumns};
    pub use abi_stable;
    pub use inventory;
    pub use serde;
}
