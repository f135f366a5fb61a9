//! The embedding, whose rows are looked up by token. A step reads only a few of its rows, so that it may stay in host
//! memory and leave memory of the card to something else.

use super::gpt_oss::GptOss;
use super::param::Weight;
use crate::ops::lookup;
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

impl GptOss {
    /// The embedding `[V, H]`.
    pub fn embedding(&self) -> &Weight {
        &self.embed
    }

    /// The bytes of the embedding, if it is in host memory while the model is on a card.
    pub fn offloaded_bytes(&self) -> Option<u64> {
        match &self.embed {
            Weight::Frozen(rows) if rows.device().is_cpu() && !self.device.is_cpu() => {
                Some((rows.elem_count() * rows.dtype().size_in_bytes()) as u64)
            }
            _ => None,
        }
    }

    /// Moves the embedding to host memory, where it is already if the model runs on the CPU.
    ///
    /// # Errors
    /// The embedding is trained, so its gradient and its update need it on the device.
    pub fn offload_embedding(&mut self) -> Result<()> {
        match &self.embed {
            Weight::Frozen(rows) => {
                self.embed = Weight::Frozen(rows.to_device(&Device::Cpu)?);
                // The memory on the card is free only after the copy is done.
                Ok(self.device.synchronize()?)
            }
            Weight::Trainable(param) => bail!(
                "offload_embedding: {} is trained and must stay on the device; set offload_embedding to \
                 false, or train it neither by modules_to_save nor by train_type full",
                param.name()
            ),
        }
    }

    /// Looks up the rows of the tokens `ids` `[T]`, in the compute type, on the model's device.
    pub(super) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = match (&self.embed, self.offloaded_bytes()) {
            (Weight::Frozen(rows), Some(_)) => {
                lookup::rows(rows, &ids.to_vec1::<u32>()?, &self.device)
            }
            _ => Ok(self.embed.get(self.dtype)?.index_select(ids, 0)?),
        };
        rows.with_context(|| {
            format!(
                "a token id is beyond the vocabulary of {}",
                self.config.architecture.vocab_size
            )
        })
    }
}
