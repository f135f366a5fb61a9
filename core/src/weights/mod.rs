//! Where weights come from: a Hugging Face directory, or a generator.

mod directory;

pub use directory::Directory;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// Tensors by their names in a Hugging Face checkpoint.
pub trait WeightSource: Send + Sync {
    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// The tensor, which must have this shape, converted to `dtype`, on `device`.
    ///
    /// # Errors
    /// It is missing, or of another shape, or cannot be converted; the error names it, what was
    /// found and what was expected.
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor>;
}
