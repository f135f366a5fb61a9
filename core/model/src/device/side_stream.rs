//! A second stream of a card, for work of a library beside candle: sums and gatherings over several cards.
//!
//! candle's stream is the default stream of the calling thread, a handle that names another stream in every thread. A library
//! that launches from a thread of its own, as NCCL does, would work beside the model's kernels instead of after them. Its
//! work goes to a stream with a handle of its own, which is ordered against candle's by events.
//!
//! Work that is [queued](SideStream::queue) goes on beside what candle does next. Memory that it uses belongs to candle's
//! pool, which gives freed memory away in the order of candle's stream alone: tensors are kept until candle's stream
//! has [waited](SideStream::wait) for the work. How long it stood still for that is what collectives cost a step.

use anyhow::Result;
use candle_core::Device;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, sys};
#[cfg(feature = "cuda")]
use std::sync::{Arc, Mutex, PoisonError};

/// A second stream of a card; on the CPU there is nothing to order, and work is done when it is queued.
pub struct SideStream {
    /// Nanoseconds that are known.
    waited: AtomicU64,
    bytes: AtomicU64,
    #[cfg(feature = "cuda")]
    streams: Option<Streams>,
}

#[cfg(feature = "cuda")]
struct Streams {
    candle: Arc<CudaStream>,
    side: Arc<CudaStream>,
    /// Before and after each wait of candle's stream, as long as the card may not have come there.
    gaps: Mutex<Vec<[CudaEvent; 2]>>,
}

/// Work on the stream that candle's stream has not waited for.
#[must_use]
pub struct Queued {
    #[cfg(feature = "cuda")]
    done: Option<CudaEvent>,
}

impl SideStream {
    /// A stream of this device, whose card becomes the current one of this thread.
    pub fn new(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let streams = match device {
            Device::Cuda(cuda) => {
                let candle = cuda.cuda_stream();
                candle.context().bind_to_thread()?;
                let side = candle.context().new_stream()?;
                let gaps = Mutex::default();
                Some(Streams { candle, side, gaps })
            }
            _ => None,
        };
        let _ = device;
        Ok(Self {
            waited: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            #[cfg(feature = "cuda")]
            streams,
        })
    }

    /// Hands over what queues work on so many bytes, given the stream's handle: it begins after all work of candle so
    /// far. On the CPU the work is done on return.
    ///
    /// # Errors
    /// Those of `queue`, or of the card.
    pub fn queue(
        &self,
        bytes: usize,
        queue: impl FnOnce(*mut c_void) -> Result<()>,
    ) -> Result<Queued> {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        #[cfg(feature = "cuda")]
        if let Some(Streams { candle, side, .. }) = &self.streams {
            side.join(candle)?;
            queue(side.cu_stream().cast())?;
            let done = Some(side.record_event(None)?);
            return Ok(Queued { done });
        }
        let begun = Instant::now();
        queue(std::ptr::null_mut())?;
        self.count(begun.elapsed());
        Ok(Queued {
            #[cfg(feature = "cuda")]
            done: None,
        })
    }

    /// What candle does from here on comes after this work. The host goes on at once.
    ///
    /// # Errors
    /// Those of the card.
    pub fn wait(&self, queued: &Queued) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(Streams { candle, gaps, .. }), Some(done)) = (&self.streams, &queued.done) {
            let timed = || candle.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
            let before = timed()?;
            candle.wait(done)?;
            let after = timed()?;
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            gaps.push([before, after]);
            return self.count_gaps(&mut gaps, |[_, after]| after.is_complete());
        }
        let _ = queued;
        Ok(())
    }

    /// Queues work and waits for it.
    ///
    /// # Errors
    /// Those of `queue`, or of the card.
    pub fn run(&self, bytes: usize, queue: impl FnOnce(*mut c_void) -> Result<()>) -> Result<()> {
        self.wait(&self.queue(bytes, queue)?)
    }

    /// How long candle's stream, on the CPU this thread, has stood still for work of this stream, since the beginning.
    /// On a card the host waits for the last of it.
    ///
    /// # Errors
    /// Those of the card.
    pub fn waited(&self) -> Result<Duration> {
        #[cfg(feature = "cuda")]
        if let Some(Streams { gaps, .. }) = &self.streams {
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            self.count_gaps(&mut gaps, |_| true)?;
        }
        Ok(Duration::from_nanos(self.waited.load(Ordering::Relaxed)))
    }

    /// The bytes that were handed over, since the beginning.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn count(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts the first waits for which `over` holds, and forgets their events.
    #[cfg(feature = "cuda")]
    fn count_gaps(
        &self,
        gaps: &mut Vec<[CudaEvent; 2]>,
        over: impl Fn(&[CudaEvent; 2]) -> bool,
    ) -> Result<()> {
        let count = gaps.iter().take_while(|gap| over(gap)).count();
        for [before, after] in gaps.drain(..count) {
            let millis = before.elapsed_ms(&after)?;
            self.count(Duration::from_secs_f64(f64::from(millis.max(0.0)) / 1e3));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_bytes_are_counted() {
        let stream = SideStream::new(&Device::Cpu).unwrap();
        let pause = Duration::from_millis(3);
        let sleep = |_| {
            std::thread::sleep(pause);
            Ok(())
        };
        stream.run(5, sleep).unwrap();
        let queued = stream.queue(7, sleep).unwrap();
        stream.wait(&queued).unwrap();
        assert!(stream.waited().unwrap() >= 2 * pause);
        assert_eq!(stream.bytes(), 12);
        assert!(stream.run(1, |_| anyhow::bail!("no")).is_err());
    }
}
