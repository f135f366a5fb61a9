//! Training: from a configuration to a checkpoint.
//!
//! `run/mod.rs` is the page on which a run can be read from top to bottom: set up, evaluate, step, log, evaluate, save, answer,
//! finish. Everything else here is one ingredient each.

pub(crate) mod about;
pub(crate) mod args;
mod batch;
mod best;
mod channel_loss;
mod checkpoint;
mod clock;
mod dry_run;
pub(crate) mod evaluate;
mod events;
mod examples;
pub(crate) mod fit;
mod gradient_check;
mod logs;
mod loss;
pub(crate) mod optimizer;
pub(crate) mod parts;
mod pictures;
mod plan;
pub(crate) mod ranks;
mod requested;
mod resume;
mod row_loss;
mod run;
mod run_folder;
mod sampling;
mod screen;
mod settings;
pub(crate) mod shard_base;
mod state;
mod step;
mod steps;
mod terms;
mod trained_part;

pub use batch::{MicroBatch, MicroReport, Sequence};
pub use events::{Events, OtherWeight};
pub use logs::Trackers;
pub use loss::{LossReport, Supervised, Tokens, head_loss};
pub use optimizer::{Hook, OptimizerHost, Passes};
pub use pictures::Pictures;
pub use run::run;
pub use screen::Screen;
pub use step::{Step, StepHooks, StepReport, Window};
