//! Training: from a configuration to a checkpoint.
//!
//! `recipe` reads top to bottom like one: set up, loop, evaluate, save. Everything else here is
//! one ingredient each.

pub(crate) mod about;
mod batch;
mod best;
mod checkpoint;
mod clock;
mod dry_run;
mod due;
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
pub(crate) mod recipe;
mod resume;
mod run_folder;
mod screen;
mod settings;
mod state;
mod step;
mod steps;
mod terms;
mod trainer;

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
pub use recipe::run;
pub use screen::Screen;
pub use settings::{Every, Settings};
pub use step::{Between, Step, StepReport};
pub use steps::{Steps, Wanted};
pub use trainer::{Components, Look, ModelFiles, Outcome, Trainer};
