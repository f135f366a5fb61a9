//! The host side of components: tensors behind the SDK's handle, and chunks of logits for losses.

mod chunk;
mod tensor;

pub use chunk::{ChunkLoss, chunk_loss};
pub use tensor::{unwrap, wrap};
