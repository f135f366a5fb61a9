//! Takes timestamps on a device.

use anyhow::Result;
use candle_core::Device;
use std::time::Instant;

/// Where timestamps come from.
pub enum Clock {
    /// The clock of the machine.
    Host,
    /// The stream of all work on a card.
    #[cfg(feature = "cuda")]
    Card(std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>),
}

/// A point in time.
pub enum Timestamp {
    /// A time of the machine's clock.
    Host(Instant),
    /// The time when the card is done with all work that was launched before.
    #[cfg(feature = "cuda")]
    Card(candle_core::cuda_backend::cudarc::driver::CudaEvent),
}

impl Clock {
    /// The clock of the work on a device, which is idle from here on.
    pub fn new(device: &Device) -> Result<Self> {
        device.synchronize()?;
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(Self::Card(cuda.cuda_stream())),
            _ => Ok(Self::Host),
        }
    }

    /// Takes the time now.
    pub fn mark(&self) -> Result<Timestamp> {
        match self {
            Self::Host => Ok(Timestamp::Host(Instant::now())),
            #[cfg(feature = "cuda")]
            Self::Card(stream) => {
                use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
                let event = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
                Ok(Timestamp::Card(event))
            }
        }
    }
}

impl Timestamp {
    /// Milliseconds from this moment to a later one of the same clock; waits for it on a card.
    pub fn milliseconds_to(&self, later: &Self) -> Result<f64> {
        match (self, later) {
            (Self::Host(start), Self::Host(end)) => Ok((*end - *start).as_secs_f64() * 1e3),
            #[cfg(feature = "cuda")]
            (Self::Card(start), Self::Card(end)) => Ok(f64::from(start.elapsed_ms(end)?)),
            #[cfg(feature = "cuda")]
            _ => anyhow::bail!("marks of two clocks have no time between them"),
        }
    }
}
