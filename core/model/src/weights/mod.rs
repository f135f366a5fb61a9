//! Sources of weights, such as a Hugging Face directory; and writing files of tensors.

mod directory;
mod reader;
mod save;
mod shard;

pub use directory::Directory;
pub use save::{apply_umask, save};
pub use shard::{Shard, StoredTensor};

use crate::tensors::TensorSpec;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// What reading the tensors of a model took.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The bytes of the tensors in their files.
    pub bytes: u64,
    /// The time for reading files and converting.
    pub reading: Duration,
    /// The time for which the card was waited for.
    pub waiting: Duration,
    /// The names of tensors in the files that nobody asked for.
    pub unused: Vec<String>,
}

impl Transfer {
    /// A message about the load, which took `whole` in all.
    pub fn summary(&self, whole: Duration) -> String {
        let (gb, seconds) = (self.bytes as f64 / 1e9, whole.as_secs_f64());
        let rate = gb / seconds.max(1e-9);
        format!("loaded {gb:.1} GB in {seconds:.1} s ({rate:.1} GB/s): {self}")
    }

    /// A message about tensors that the model does not use, if there are any.
    pub fn left_over(&self) -> Option<String> {
        let count = self.unused.len();
        let some: Vec<&str> = self.unused.iter().take(3).map(String::as_str).collect();
        let dots = if count > some.len() { ", ..." } else { "" };
        (count > 0).then(|| {
            format!(
                "{count} tensors of the model's files are not used, since config.json describes a model without them: \
                 {}{dots}",
                some.join(", ")
            )
        })
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reading, waiting) = (self.reading.as_secs_f64(), self.waiting.as_secs_f64());
        write!(f, "{reading:.1} s reading")?;
        match self.waiting.is_zero() {
            true => Ok(()),
            false => write!(f, ", {waiting:.1} s waiting for the card"),
        }
    }
}

/// Tensors by their names in a Hugging Face checkpoint.
pub trait WeightSource: Send + Sync {
    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// The tensor, which must have this shape, converted to `dtype`, on `device`.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or cannot be converted; the error names it, what was found and what was
    /// expected.
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor>;

    /// A range of the elements of the tensor that [`tensor`](Self::tensor) gives, in the order in which they lie in a file, as
    /// `[n]`. An empty range checks the tensor alone.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    fn part(
        &self,
        name: &str,
        (shape, dtype): (&[usize], DType),
        elements: Range<usize>,
        device: &Device,
    ) -> Result<Tensor> {
        if elements.is_empty() {
            self.check(name, shape, dtype)?;
            return Ok(Tensor::zeros(0, dtype, device)?);
        }
        let whole = self.tensor(name, shape, dtype, device)?.flatten_all()?;
        // A copy, so that the whole does not stay.
        Ok(whole.narrow(0, elements.start, elements.len())?.copy()?)
    }

    /// Checks without reading anything that [`tensor`](Self::tensor) would find the tensor.
    fn check(&self, name: &str, shape: &[usize], dtype: DType) -> Result<()>;

    /// Whether it holds a tensor packed.
    fn is_packed(&self, spec: &TensorSpec) -> bool {
        let packed = spec.packed();
        packed.is_some_and(|[blocks, _]| self.contains(&blocks.name))
    }

    /// Ends a load and frees its buffers. Returns what the load took, if files were read.
    fn done(&self) -> Option<Transfer> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people() {
        let seconds = Duration::from_secs_f64;
        let transfer = Transfer {
            bytes: 13_760_000_000,
            reading: seconds(1.25),
            waiting: seconds(0.5),
            unused: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
        };
        assert_eq!(
            transfer.summary(seconds(3.2)),
            "loaded 13.8 GB in 3.2 s (4.3 GB/s): 1.2 s reading, 0.5 s waiting for the card"
        );
        let line = transfer.left_over().unwrap();
        assert!(
            line.starts_with("4 tensors") && line.ends_with("a, b, c, ..."),
            "{line}"
        );
    }
}
