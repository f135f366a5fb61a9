//! Reads a tensor from a file to a device in the type that it is kept in, without unnecessary copies.

use super::Transfer;
use super::shard::{PART, StoredTensor};
#[cfg(feature = "cuda")]
use crate::ops::cuda::upload::Upload;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Reads the tensors of a load: it counts what was read and holds the buffers for copies to a card.
#[derive(Default)]
pub struct TensorReader {
    bytes: u64,
    reading: Duration,
    #[cfg(feature = "cuda")]
    upload: Option<Upload>,
}

impl TensorReader {
    /// Reads a tensor, or a part of one, that is stored in type `found` and will be kept in type `kept` and in this shape.
    pub fn read(
        &mut self,
        stored: StoredTensor,
        (found, kept): (DType, DType),
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        self.bytes += stored.size() as u64;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device
            && found != DType::F16
        {
            let upload = match &mut self.upload {
                Some(upload) if upload.serves(cuda) => upload,
                none => none.insert(Upload::new(cuda)?),
            };
            let read = |at: usize, to: &mut [u8]| stored.read(at, to);
            let tensor = upload.tensor(shape, found, &read)?;
            return Ok(tensor.to_dtype(kept)?);
        }
        let started = Instant::now();
        let tensor = match (found, kept) {
            (DType::BF16, DType::F32) => {
                Tensor::from_vec(floats(stored, bf16::from_le_bytes)?, shape, &Device::Cpu)?
            }
            (DType::F16, DType::F32) => {
                Tensor::from_vec(floats(stored, f16::from_le_bytes)?, shape, &Device::Cpu)?
            }
            (DType::F32, DType::F32) => {
                Tensor::from_vec(floats(stored, f32::from_le_bytes)?, shape, &Device::Cpu)?
            }
            (DType::U8, DType::U8) => Tensor::from_vec(stored.to_vec()?, shape, &Device::Cpu)?,
            _ => Tensor::from_raw_buffer(&stored.to_vec()?, found, shape, &Device::Cpu)?
                .to_dtype(kept)?,
        };
        let tensor = tensor.to_device(device)?;
        self.reading += started.elapsed();
        Ok(tensor)
    }

    /// Frees the buffers and returns what the load took.
    pub fn done(self) -> Transfer {
        let reading = self.reading;
        #[cfg(feature = "cuda")]
        let (reading, waiting) = match &self.upload {
            Some(upload) => (reading + upload.filling, upload.waiting),
            None => (reading, Duration::ZERO),
        };
        #[cfg(not(feature = "cuda"))]
        let waiting = Duration::ZERO;
        Transfer {
            bytes: self.bytes,
            reading,
            waiting,
            unused: Vec::new(),
        }
    }
}

/// Reads elements of `WIDTH` bytes as f32. Each core reads through a buffer of its own, so that the bytes of a tensor are never
/// in memory beside its elements.
fn floats<const WIDTH: usize, T: Into<f32>>(
    stored: StoredTensor,
    element: impl Fn([u8; WIDTH]) -> T + Sync,
) -> Result<Vec<f32>> {
    let step = PART / WIDTH;
    let mut values = vec![0.0; stored.size() / WIDTH];
    values.par_chunks_mut(step).enumerate().try_for_each_init(
        || vec![0; PART],
        |buffer, (i, values)| {
            let bytes = &mut buffer[..values.len() * WIDTH];
            stored.read(i * PART, bytes)?;
            let (elements, _) = bytes.as_chunks::<WIDTH>();
            for (value, bytes) in values.iter_mut().zip(elements) {
                *value = element(*bytes).into();
            }
            anyhow::Ok(())
        },
    )?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::shard::Shard;
    use super::*;

    #[test]
    fn every_type_becomes_what_candle_makes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        // More than a part, and no multiple of one.
        let count = PART / 2 + 4321;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let values = Tensor::from_vec(values, (1, count), &Device::Cpu).unwrap();
        for (found, kept) in [
            (DType::F32, DType::F32),
            (DType::F16, DType::F32),
            (DType::BF16, DType::F32),
            (DType::F32, DType::BF16),
            (DType::BF16, DType::BF16),
        ] {
            let expected = values.to_dtype(found).unwrap();
            let tensors = std::collections::HashMap::from([("a".to_owned(), expected.clone())]);
            candle_core::safetensors::save(&tensors, &path).unwrap();
            let shard = Shard::open(path.clone()).unwrap();
            let mut reader = TensorReader::default();
            let stored = shard.tensor("a").unwrap();
            let read = reader
                .read(stored, (found, kept), stored.shape(), &Device::Cpu)
                .unwrap();
            assert_eq!((read.dtype(), read.dims()), (kept, &[1, count][..]));
            let numbers = |t: Tensor| {
                let t = t.to_dtype(kept).unwrap().to_dtype(DType::F32).unwrap();
                t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert!(
                numbers(read) == numbers(expected.clone()),
                "{found:?} as {kept:?}"
            );
            assert_eq!(reader.done().bytes as usize, count * found.size_in_bytes());

            // A part is what lies there of the whole.
            let range = PART / 2 - 3..PART / 2 + 1000;
            let part = stored.part(range.clone()).unwrap();
            let mut reader = TensorReader::default();
            let read = reader
                .read(part, (found, kept), &[range.len()], &Device::Cpu)
                .unwrap();
            let there = expected.flatten_all().unwrap();
            let there = there.narrow(0, range.start, range.len()).unwrap();
            assert!(numbers(read) == numbers(there), "{found:?} as {kept:?}");
            assert_eq!(
                reader.done().bytes as usize,
                range.len() * found.size_in_bytes()
            );
            assert!(stored.part(count - 1..count + 1).is_err());
        }
    }
}
