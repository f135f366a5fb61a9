//! The embedding, whose rows are looked up by token. A step reads only a few of its rows, so that it may stay in host
//! memory and leave memory of the card to something else.

use super::param::Weight;
use crate::ops::lookup;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};

/// A row for each token of the vocabulary.
#[derive(Debug)]
pub struct Embedding {
    /// `[V, H]`.
    pub weight: Weight,
    /// Where its rows are used.
    device: Device,
    /// The compute type.
    dtype: DType,
}

impl Embedding {
    /// An embedding whose rows are used on a device in a compute type.
    pub fn new(weight: Weight, device: &Device, dtype: DType) -> Self {
        Self {
            weight,
            device: device.clone(),
            dtype,
        }
    }

    /// Looks up the rows of the tokens `ids` `[T]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = match (&self.weight, self.offloaded_bytes()) {
            (Weight::Frozen(rows), Some(_)) => {
                lookup::rows(rows, &ids.to_vec1::<u32>()?, &self.device)
            }
            _ => Ok(self.weight.get(self.dtype)?.index_select(ids, 0)?),
        };
        rows.with_context(|| {
            format!(
                "a token id is beyond the vocabulary of {}",
                self.weight.dims()[0]
            )
        })
    }

    /// The weight accumulates its gradient from that by the rows `[T, H]`, if it is trained.
    pub fn backward(&self, ids: &Tensor, drows: &Tensor) -> Result<()> {
        self.weight.accumulate(|| {
            let zeros = Tensor::zeros(self.weight.dims(), DType::F32, &self.device)?;
            Ok(zeros.index_add(ids, &drows.to_dtype(DType::F32)?, 0)?)
        })
    }

    /// Its bytes, if it is in host memory while it is used on a card.
    pub fn offloaded_bytes(&self) -> Option<u64> {
        match &self.weight {
            Weight::Frozen(rows) if rows.device().is_cpu() && !self.device.is_cpu() => {
                Some(self.weight.frozen_bytes())
            }
            _ => None,
        }
    }

    /// Moves it to host memory, where it is already if the model runs on the CPU.
    ///
    /// # Errors
    /// It is trained, so its gradient and its update need it on the device.
    pub fn offload(&mut self) -> Result<()> {
        match &self.weight {
            Weight::Frozen(rows) => {
                self.weight = Weight::Frozen(rows.to_device(&Device::Cpu)?);
                // The memory on the card is free only after the copy is done.
                Ok(self.device.synchronize()?)
            }
            Weight::Sharded(_) => bail!("offload_embedding: the embedding is spread over ranks"),
            Weight::Trainable(param) => bail!(
                "offload_embedding: {} is trained and must stay on the device; set offload_embedding to \
                 false, or train it neither by modules_to_save nor by train_type full",
                param.name()
            ),
        }
    }
}
