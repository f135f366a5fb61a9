//! Adapters as PEFT reads and writes them: targets, configuration, tensors, merging.
//!
//! A parameter's name is the key under which PEFT saves it, and its shape the one PEFT gives it, so that writing
//! an adapter is writing its parameters.

mod blueprint;
mod expected;
mod expert;
mod fields;
mod file;
mod hints;
mod merge;
mod of_updates;
mod patterns;
mod peft_config;
mod saved_targets;
mod table;
mod targets;
mod tensors_file;
mod tuned;
mod unmerged;
mod vllm;

pub use blueprint::Blueprint;
pub use expert::{ExpertBytes, ExpertRoom, ExpertUpdate, Squares, convert_expert};
pub use file::Adapter;
pub use merge::{ExpertMerge, expert_merged};
pub use patterns::Patterns;
pub use peft_config::{PeftConfig, TargetModules};
pub use table::{ParameterRow, ParameterTable};
pub use targets::{TargetSpec, resolve};
pub use tensors_file::save;
pub use tuned::{TunedConfig, load_tuned, save_tuned, tuned_tensors, whole_tensors};
pub use vllm::VllmAdapter;

#[cfg(test)]
pub(crate) mod testing {
    pub use crate::families::testing::{goldens, tiny};
}
