//! How much memory of a device is used and free, for the memory plan and for logs.

use apus_base::memory;
use candle_core::Device;

/// The most memory that was in use, in bytes: of the card on CUDA, of the process on the CPU.
pub fn peak(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::peak_memory(cuda),
        _ => memory::resident_peak(),
    }
}

/// The memory that a run can still take, in bytes.
pub fn free(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::memory(cuda).ok().map(|memory| memory.free),
        _ => memory::available(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_cpu_has_some() {
        assert!(peak(&Device::Cpu).unwrap() > 1 << 20);
        assert!(free(&Device::Cpu).unwrap() > 1 << 20);
    }
}
