//! Training: from a configuration to a checkpoint.
//!
//! [`recipe`] reads top to bottom like one: set up, loop, evaluate, save. Everything else here is
//! one ingredient each.

mod checkpoint;
mod clock;
mod evaluate;
mod events;
mod gradient_check;
mod logs;
mod loss;
mod optimizer;
mod plan;
mod progress;
mod recipe;
mod samples;
mod setup;
mod signals;
mod state;
mod steps;

pub use checkpoint::Checkpoint;
pub use evaluate::{Evaluation, evaluate};
pub use loss::{LossReport, head_loss};
pub use optimizer::OptimizerHost;
pub use recipe::run;
pub use steps::Steps;
