//! A whole model: loaded from weights, given low-rank updates, trained.

mod causal_lm;
mod check_device;
mod load;
mod loaded;
mod lora;
#[cfg(test)]
mod tests;
mod tuned;
mod update_set;
pub mod updates;

pub use causal_lm::CausalLm;
pub use check_device::check_device;
pub use load::{ExpertsDtype, LoadOptions, Training};
pub use loaded::{LoadedForm, LoadedTensor};
pub use lora::{Init, LoraSettings, Numbers, Targets};
pub use tuned::{Addition, LowRank, part};
pub use update_set::{OwnUpdates, UpdateSet};
