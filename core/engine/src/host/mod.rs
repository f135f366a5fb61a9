//! The host side of components: tensors behind the SDK's handle, and chunks of logits for losses.

mod chunk;
mod run;
mod tensor;

pub use chunk::{ChunkContext, ChunkLoss, chunk_loss};
pub use run::{Busy, RunView, Shown, fitting};
pub use tensor::{Role, role, unwrap, wrap, wrap_as};
