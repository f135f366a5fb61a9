//! Bytes of host memory to the card at the speed of the bus. The driver copies from pageable memory through a small
//! buffer of its own on one thread; here all cores fill pinned buffers in turn, and while one is filled, the card
//! copies the others. Filling is also what reads a mapped file from the disk, several parts at once.

use super::launch::{empty, pointer};
use anyhow::{Result, bail, ensure};
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};
use candle_core::{CudaDevice, DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUFFERS: usize = 4;
const BUFFER: usize = 32 << 20;
/// What a thread copies at a time.
const PART: usize = 1 << 20;

/// Pinned buffers, used in turn.
pub struct Upload {
    cuda: CudaDevice,
    stream: Arc<CudaStream>,
    buffers: Vec<Buffer>,
    next: usize,
    /// Time that filling buffers took.
    pub filling: Duration,
    /// Time that waiting for the card took.
    pub waiting: Duration,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// The last copy out of it.
    copied: CudaEvent,
}

impl Upload {
    /// Takes the buffers.
    ///
    /// # Errors
    /// The driver has no pinned memory to give.
    pub fn new(cuda: &CudaDevice) -> Result<Self> {
        let stream = cuda.cuda_stream();
        let context = stream.context();
        let buffer = || {
            Ok(Buffer {
                // SAFETY: every byte is written before it is read.
                memory: unsafe { context.alloc_pinned_with_flags(BUFFER, 0) }?,
                copied: context.new_event(None)?,
            })
        };
        let buffers: Result<Vec<_>, DriverError> = (0..BUFFERS).map(|_| buffer()).collect();
        let Ok(buffers) = buffers else {
            bail!(
                "the system gives no {} MiB of pinned host memory to load weights through: free memory, or raise the \
                 container's limit",
                (BUFFERS * BUFFER) >> 20
            )
        };
        Ok(Self {
            buffers,
            cuda: cuda.clone(),
            stream,
            next: 0,
            filling: Duration::ZERO,
            waiting: Duration::ZERO,
        })
    }

    /// Whether it serves this device.
    pub fn serves(&self, cuda: &CudaDevice) -> bool {
        self.cuda.id() == cuda.id()
    }

    /// A tensor with these bytes; ready for whatever comes after it on the device's stream.
    ///
    /// # Errors
    /// As many bytes as the shape has not, a type that no kernel takes, or out of memory.
    pub fn tensor(&mut self, bytes: &[u8], shape: &[usize], dtype: DType) -> Result<Tensor> {
        let size = shape.iter().product::<usize>() * dtype.size_in_bytes();
        ensure!(
            bytes.len() == size,
            "found {} bytes, expected {size}",
            bytes.len()
        );
        let tensor = empty(shape, dtype, &self.cuda)?;
        let mut to = pointer(&tensor, dtype)?;
        for piece in bytes.chunks(BUFFER) {
            self.copy(piece, to)?;
            to += piece.len() as u64;
        }
        Ok(tensor)
    }

    /// At most a buffer of bytes to an address on the device that has room for them.
    fn copy(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        let buffer = &mut self.buffers[self.next];
        self.next = (self.next + 1) % BUFFERS;
        let started = Instant::now();
        buffer.copied.synchronize()?;
        let waited = Instant::now();
        let memory = &mut buffer.memory.as_mut_slice()?[..bytes.len()];
        memory
            .par_chunks_mut(PART)
            .zip(bytes.par_chunks(PART))
            .for_each(|(to, from)| to.copy_from_slice(from));
        self.waiting += waited - started;
        self.filling += waited.elapsed();
        // SAFETY: the buffer is not touched before the event that follows, and not freed before the stream is idle.
        unsafe { result::memcpy_htod_async(to, memory, self.stream.cu_stream()) }?;
        buffer.copied.record(&self.stream)?;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Buffers of copies that may still run must not be freed; a stream that failed runs none.
        let _ = self.stream.synchronize();
    }
}
