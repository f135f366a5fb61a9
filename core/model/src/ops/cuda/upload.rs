//! Copies bytes of a file to the card at the speed of the bus. By itself, the driver copies from pageable memory through a small buffer of
//! its own on one thread; here all cores read the file into pinned buffers, several parts at once, and while one is
//! filled, the card copies the others.

use super::{empty, pointer};
use anyhow::{Result, bail};
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};
use candle_core::{CudaDevice, DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUFFERS: usize = 4;
const BUFFER: usize = 32 << 20;
/// The bytes that a thread reads at a time.
const PART: usize = 1 << 20;

/// Pinned buffers, which are used in turn.
pub struct Upload {
    cuda: CudaDevice,
    stream: Arc<CudaStream>,
    buffers: Vec<Buffer>,
    next: usize,
    /// The time that filling buffers took.
    pub filling: Duration,
    /// The time that waiting for the card took.
    pub waiting: Duration,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// The end of the last copy from it.
    copied: CudaEvent,
}

impl Upload {
    /// Allocates the buffers.
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

    /// Makes a tensor of the bytes that `read` gives from a byte of the tensor on. Work that is put on the device's stream
    /// later sees the whole tensor.
    ///
    /// # Errors
    /// `read` failed, or no kernel takes the type.
    pub fn tensor(
        &mut self,
        shape: &[usize],
        dtype: DType,
        read: &(dyn Fn(usize, &mut [u8]) -> Result<()> + Sync),
    ) -> Result<Tensor> {
        let size = shape.iter().product::<usize>() * dtype.size_in_bytes();
        let tensor = empty(shape, dtype, &self.cuda)?;
        let to = pointer(&tensor, dtype)?;
        for at in (0..size).step_by(BUFFER) {
            self.copy(at, BUFFER.min(size - at), to + at as u64, read)?;
        }
        Ok(tensor)
    }

    /// Copies at most a buffer of bytes to an address on the device.
    fn copy(
        &mut self,
        at: usize,
        len: usize,
        to: u64,
        read: &(dyn Fn(usize, &mut [u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let buffer = &mut self.buffers[self.next];
        self.next = (self.next + 1) % BUFFERS;
        let started = Instant::now();
        buffer.copied.synchronize()?;
        let waited = Instant::now();
        let memory = &mut buffer.memory.as_mut_slice()?[..len];
        memory
            .par_chunks_mut(PART)
            .enumerate()
            .try_for_each(|(i, part)| read(at + i * PART, part))?;
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
