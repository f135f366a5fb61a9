//! A second stream of a card, for work of a library beside candle: sums and gatherings over several cards.
//!
//! candle's stream is the default stream of the calling thread, a handle that names another stream in every thread. A library
//! that launches from a thread of its own, as NCCL does, would work beside the model's kernels instead of after them. Its
//! work goes to a stream with a handle of its own, which is ordered against candle's by events.

use anyhow::Result;
use candle_core::Device;
use std::ffi::c_void;

/// Work on the stream that candle's stream has not waited for.
#[must_use]
pub struct Queued {
    #[cfg(feature = "cuda")]
    done: Option<candle_core::cuda_backend::cudarc::driver::CudaEvent>,
}

/// A second stream of a card; on the CPU there is nothing to order.
pub struct SideStream {
    #[cfg(feature = "cuda")]
    streams: Option<Streams>,
}

#[cfg(feature = "cuda")]
struct Streams {
    candle: std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
    side: std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
}

impl SideStream {
    /// A stream of this device, whose card becomes the current one of this thread.
    pub fn new(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            let candle = cuda.cuda_stream();
            candle.context().bind_to_thread()?;
            let side = candle.context().new_stream()?;
            return Ok(Self {
                streams: Some(Streams { candle, side }),
            });
        }
        let _ = device;
        Ok(Self {
            #[cfg(feature = "cuda")]
            streams: None,
        })
    }

    /// Runs what queues work on the stream, given its handle: after all work of candle so far, and before all that follows.
    pub fn run<R>(&self, queue: impl FnOnce(*mut c_void) -> Result<R>) -> Result<R> {
        #[cfg(feature = "cuda")]
        if let Some(Streams { candle, side }) = &self.streams {
            side.join(candle)?;
            let result = queue(side.cu_stream().cast())?;
            candle.join(side)?;
            return Ok(result);
        }
        queue(std::ptr::null_mut())
    }

    /// As [`run`](Self::run), beside what candle does next, which [`wait`](Self::wait) orders after it. Memory that the queued
    /// work touches has to be there before this call, and may be freed only after candle's stream has waited.
    pub fn queue(
        &self,
        _bytes: usize,
        queue: impl FnOnce(*mut c_void) -> Result<()>,
    ) -> Result<Queued> {
        #[cfg(feature = "cuda")]
        if let Some(Streams { candle, side }) = &self.streams {
            side.join(candle)?;
            queue(side.cu_stream().cast())?;
            let done = Some(side.record_event(None)?);
            return Ok(Queued { done });
        }
        queue(std::ptr::null_mut())?;
        Ok(Queued {
            #[cfg(feature = "cuda")]
            done: None,
        })
    }

    /// What candle does from here on comes after this work. The host goes on at once.
    pub fn wait(&self, queued: &Queued) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(Streams { candle, .. }), Some(done)) = (&self.streams, &queued.done) {
            candle.wait(done)?;
        }
        let _ = queued;
        Ok(())
    }
}
