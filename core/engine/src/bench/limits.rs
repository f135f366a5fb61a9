//! Measures the limits of the device in the same process: the rates of a large product and of a copy.

use anyhow::Result;
use apus_model::ops::{copy, fill};
use candle_core::{DType, Device, Tensor};
use std::time::Instant;

/// The sustained rates of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Operations a second of a large product in the compute type.
    pub flops: f64,
    /// Rows and columns of its matrices.
    pub side: usize,
    /// Bytes a second of a copy, read and written.
    pub bytes: f64,
}

/// Measures a device. The best of several tries counts, because other processes may use the device.
pub fn measure(device: &Device) -> Result<Limits> {
    let (side, dtype) = match device {
        Device::Cpu => (1024, DType::F32),
        _ => (8192, DType::BF16),
    };
    let random = |stream: u64| fill::normal((side, side), 1.0, (1, stream), dtype, device);
    let (a, b) = (random(1)?, random(2)?);
    let product = seconds(device, || {
        a.matmul(&b)?;
        Ok(())
    })?;
    let size: usize = if device.is_cpu() { 1 << 28 } else { 1 << 30 };
    let from = Tensor::zeros(size, DType::U8, device)?;
    let to = Tensor::zeros(size, DType::U8, device)?;
    let copied = seconds(device, || copy::into(&to, &from))?;
    Ok(Limits {
        flops: 2.0 * (side as f64).powi(3) / product,
        side,
        bytes: 2.0 * size as f64 / copied,
    })
}

/// How many series of calls are timed; the fastest one counts.
const TRIES: usize = 5;
/// How long a series of calls lasts, in seconds.
const ROW: f64 = 0.05;

/// The seconds of one call: the best mean of several series of calls, after one call that does not count. A long call is
/// made only once more.
pub fn seconds(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut mean = |calls: usize| -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    mean(1)?;
    let mut best = mean(1)?;
    if best > ROW * 10.0 {
        return Ok(best);
    }
    let calls = ((ROW / best) as usize).clamp(1, 100);
    for _ in 0..TRIES {
        best = best.min(mean(calls)?);
    }
    Ok(best)
}

/// The name of the card or of the processor.
pub fn machine(device: &Device) -> String {
    let name = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().name().ok(),
        _ => processor(),
    };
    match name {
        Some(name) => format!("{name} ({})", apus_model::device::name(device)),
        None => apus_model::device::name(device),
    }
}

/// The processor and its threads, where the system tells.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Some(format!("{}, {threads} threads", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_limits() {
        let limits = measure(&Device::Cpu).unwrap();
        assert!(limits.flops > 1e8 && limits.bytes > 1e7, "{limits:?}");
        assert!(machine(&Device::Cpu).contains("cpu"));
    }
}
