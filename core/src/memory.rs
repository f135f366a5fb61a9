//! Memory and disk in use, for people who watch it.

use candle_core::Device;
use std::path::Path;

/// The most memory that was in use, in bytes: of the card on CUDA, of the process on the CPU.
pub fn peak(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::device::peak_memory(cuda),
        _ => resident_peak(),
    }
}

/// The memory that a run can still take, in bytes.
pub fn free(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::device::memory(cuda).ok().map(|memory| memory.free),
        _ => available(),
    }
}

/// The bytes that this user can still write to the disk of a folder.
pub fn disk(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// `MemAvailable` of this machine, where the system tells.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The memory that this process takes now, in bytes, where the system tells.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most that it has taken.
fn resident_peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_some() {
        assert!(peak(&Device::Cpu).unwrap() > 1 << 20);
        assert!(free(&Device::Cpu).unwrap() > 1 << 20);
        assert!(resident().unwrap() > 1 << 20);
        assert!(disk(&std::env::temp_dir()).is_some());
        assert_eq!(disk(Path::new("/nowhere")), None);
    }
}
