//! Training: from a configuration to a checkpoint.
//!
//! `run` is the page on which a run can be read from top to bottom: set up, evaluate, step, log, evaluate, save, answer,
//! finish. Everything else here is one ingredient each.

pub(crate) mod about;
pub(crate) mod args;
mod batch;
mod best;
mod checkpoint;
mod clock;
mod dry_run;
mod evaluate;
mod events;
mod examples;
pub(crate) mod fit;
mod gradient_check;
mod logs;
mod loss;
mod optimizer;
mod order;
pub mod parts;
mod pictures;
mod plan;
mod resume;
mod run;
mod run_folder;
mod screen;
mod settings;
mod state;
mod step;
mod steps;
mod terms;
mod trained_part;

pub use batch::{MicroBatch, MicroReport, Sequence};
pub use checkpoint::Checkpoint;
pub use evaluate::{Evaluation, evaluate};
pub use events::Events;
pub use examples::{Examples, Group};
pub use logs::Trackers;
pub use loss::{LossReport, Supervised, Tokens, head_loss};
pub use optimizer::OptimizerHost;
pub use pictures::Pictures;
pub use plan::{MemoryPlan, Shape};
pub use run::run;
pub use screen::Screen;
pub use settings::{Every, Settings};
pub use step::{Between, Step, StepReport};
pub use steps::{Steps, Wanted};
