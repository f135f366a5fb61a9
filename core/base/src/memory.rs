//! Memory of this process and space on disks, where the system tells.

use std::fs::File;
use std::io;
use std::path::Path;

/// The bytes that this user can still write to the disk of a folder.
pub fn disk(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Makes a file this long, with its space on the disk where the file system can promise it.
///
/// # Errors
/// The disk has not so much.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match len {
            0 => {}
            len => match fallocate(file, FallocateFlags::empty(), 0, len) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
    file.set_len(len)
}

/// `MemAvailable` of this machine, where the system tells.
pub fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The memory that this process uses now, in bytes, where the system tells.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most memory that this process has used so far, in bytes.
pub fn resident_peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// `1.25 GiB`, or MiB below one GiB.
pub fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1u32 << 30);
    if gib >= 1.0 {
        format!("{gib:.2} GiB")
    } else {
        format!("{:.1} MiB", gib * 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_length_from_the_start() {
        let file = tempfile::tempfile().unwrap();
        for len in [0, 1, 100_000] {
            reserve(&file, len).unwrap();
            assert_eq!(file.metadata().unwrap().len(), len);
        }
        assert!(reserve(&file, 1 << 60).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_some() {
        assert!(resident_peak().unwrap() > 1 << 20);
        assert!(available().unwrap() > 1 << 20);
        assert!(resident().unwrap() > 1 << 20);
        assert!(disk(&std::env::temp_dir()).is_some());
        assert_eq!(disk(Path::new("/nowhere")), None);
    }
}
