//! Work on a card that is recorded once and repeated by one call.
//!
//! A step of generation is some two hundred launches of a few microseconds each: the host takes longer to ask for them than
//! the card to carry them out. A recorded step is one call, and the card has no gaps between its kernels.

use anyhow::{Context, Result};
use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, sys};

/// Launches in their order, with the addresses and numbers that they were recorded with.
pub struct Graph(CudaGraph);

impl Graph {
    /// Records what `work` launches on the stream of a card; nothing of it runs. Kernels must be loaded, and no memory may be
    /// asked for: the tensors that the launches read and write have to live as long as the graph.
    ///
    /// # Errors
    /// Those of `work`, or `work` did something that cannot be recorded.
    pub fn record(cuda: &CudaDevice, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stream = cuda.cuda_stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let done = work();
        // The stream is usable again only after this, so it comes before any error.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = graph.context("CUDA graph: what was launched cannot be recorded")?;
        Ok(Self(graph.context("CUDA graph: nothing was launched")?))
    }

    /// Repeats the launches, after all work of the stream so far.
    ///
    /// # Errors
    /// Those of the card.
    pub fn launch(&self) -> Result<()> {
        Ok(self.0.launch()?)
    }
}
