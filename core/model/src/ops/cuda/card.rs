//! Says which card kernels are chosen for.

use anyhow::Result;
use candle_core::CudaDevice;
use std::sync::OnceLock;

/// The environment variable that, set to anything but `0`, leaves out kernels for one kind of card alone, so that they
/// can be compared with those that every card runs.
const PORTABLE: &str = "APUS_PORTABLE_KERNELS";
/// The compute capability of the oldest card that there are kernels for.
const OLDEST: (i32, i32) = (8, 0);

/// The compute capability (major, minor) by which kernels are chosen: the card's, or the oldest one's where
/// `APUS_PORTABLE_KERNELS` asks for kernels that every card runs.
pub fn capability(cuda: &CudaDevice) -> Result<(i32, i32)> {
    static FORCED: OnceLock<bool> = OnceLock::new();
    let forced =
        FORCED.get_or_init(|| std::env::var_os(PORTABLE).is_some_and(|value| value != "0"));
    match forced {
        true => Ok(OLDEST),
        false => Ok(cuda.cuda_stream().context().compute_capability()?),
    }
}
