//! From the bytes of a file to a tensor on a device in the type it is kept in, without a copy that is not needed.

use super::Transfer;
#[cfg(feature = "cuda")]
use crate::ops::cuda::upload::Upload;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// A load: what it has done so far, and the buffers of its way to a card.
#[derive(Default)]
pub struct Placing {
    bytes: u64,
    reading: Duration,
    #[cfg(feature = "cuda")]
    upload: Option<Upload>,
}

impl Placing {
    /// A tensor from its bytes in type `found`, kept in type `kept`.
    pub fn place(
        &mut self,
        bytes: &[u8],
        shape: &[usize],
        (found, kept): (DType, DType),
        device: &Device,
    ) -> Result<Tensor> {
        self.bytes += bytes.len() as u64;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device
            && found != DType::F16
        {
            let upload = match &mut self.upload {
                Some(upload) if upload.serves(cuda) => upload,
                none => none.insert(Upload::new(cuda)?),
            };
            return Ok(upload.tensor(bytes, shape, found)?.to_dtype(kept)?);
        }
        let started = Instant::now();
        let tensor = match (found, kept, device) {
            (DType::BF16, DType::F32, Device::Cpu) => {
                let values = bytes.par_chunks_exact(size_of::<bf16>());
                let values = values.map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
                Tensor::from_vec(values.collect::<Vec<f32>>(), shape, device)?
            }
            _ => Tensor::from_raw_buffer(bytes, found, shape, device)?.to_dtype(kept)?,
        };
        self.reading += started.elapsed();
        Ok(tensor)
    }

    /// Lets go of the buffers and says what the load took.
    pub fn done(self) -> Transfer {
        #[cfg(feature = "cuda")]
        if let Some(upload) = &self.upload {
            return Transfer {
                bytes: self.bytes,
                reading: self.reading + upload.filling,
                waiting: upload.waiting,
            };
        }
        Transfer {
            bytes: self.bytes,
            reading: self.reading,
            waiting: Duration::ZERO,
        }
    }
}
