//! Opens the device of a run, or says why it cannot be opened.

mod side_stream;
pub mod usage;

pub use side_stream::{Queued, SideStream};

use anyhow::{Result, bail};
use apus_base::lines::info;
use candle_core::Device;

/// Opens `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes the first card where this binary can use it,
/// else the CPU.
///
/// # Errors
/// The card that was asked for does not exist, or this binary cannot use it.
pub fn open(wanted: &str) -> Result<Device> {
    match wanted {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(first_card().unwrap_or(Device::Cpu)),
        "cuda" => card(0),
        other => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => card(index),
            _ => bail!("device {other:?} is not one of auto, cpu, cuda, cuda:N"),
        },
    }
}

/// `cpu`, `cuda:0`.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The address of a card on the PCI bus: `00000000:1b:00.0`.
pub fn bus_address(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda::bus_address(cuda),
        _ => None,
    }
}

/// The address of a contiguous tensor on a card, for what carries it to other cards.
#[cfg(feature = "cuda")]
pub fn address(tensor: &candle_core::Tensor) -> Result<u64> {
    crate::ops::cuda::pointer(tensor, tensor.dtype())
}

/// A tensor `[count]` on a card whose content is not set: who asks for it has every element written before it is read.
#[cfg(feature = "cuda")]
pub fn unset(
    count: usize,
    dtype: candle_core::DType,
    cuda: &candle_core::CudaDevice,
) -> Result<candle_core::Tensor> {
    crate::ops::cuda::empty(count, dtype, cuda)
}

/// Makes a device give the same bits for the same work, where it would not do so by default.
pub fn make_deterministic(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => deterministic::cublas(cuda),
        _ => Ok(()),
    }
}

/// The first card. If this binary supports CUDA and no card can be used, a message says why.
fn first_card() -> Option<Device> {
    match card(0) {
        Ok(device) => Some(device),
        Err(error) => {
            if cfg!(feature = "cuda") {
                info!("no CUDA device, running on the CPU: {error:#}");
            }
            None
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn card(_index: usize) -> Result<Device> {
    bail!("this apus was built without CUDA; build it with `cargo build --release --features cuda`")
}

#[cfg(feature = "cuda")]
mod deterministic;
#[cfg(feature = "cuda")]
mod graph;

#[cfg(feature = "cuda")]
pub use graph::Graph;

#[cfg(feature = "cuda")]
pub use cuda::{Memory, memory, peak_memory, reset_peak};

#[cfg(feature = "cuda")]
use cuda::card;

#[cfg(feature = "cuda")]
mod cuda {
    use super::*;
    use crate::cards::Obstacle;
    use anyhow::Context;
    use candle_core::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    use candle_core::cuda_backend::cudarc::{cublas, curand};
    use std::ffi::c_void;

    pub fn card(index: usize) -> Result<Device> {
        if let Some(obstacle) = obstacle(index)? {
            return Err(obstacle.into());
        }
        let device = Device::new_cuda(index).with_context(|| {
            format!("card {index} cannot be opened; run on the CPU with --device cpu")
        })?;
        let Device::Cuda(cuda) = &device else {
            bail!("card {index} is no CUDA device")
        };
        // SAFETY: all work goes to one stream, where the order of calls is the order of execution.
        unsafe { cuda.disable_event_tracking() };
        keep_pool(cuda)?;
        Ok(device)
    }

    /// What stands in the way of a card, asked in the order in which one needs the other.
    fn obstacle(index: usize) -> Result<Option<Obstacle>> {
        let mut version = 0;
        // SAFETY: writes one integer; needs no initialisation.
        if unsafe { sys::cuDriverGetVersion(&raw mut version) } != sys::CUresult::CUDA_SUCCESS {
            return Ok(Some(Obstacle::NoDriver));
        }
        if let Some(old) = Obstacle::driver(version) {
            return Ok(Some(old));
        }
        if let Err(error) = result::init() {
            return Ok(Some(Obstacle::NoCards(format!("{:?}", error.0))));
        }
        let count = usize::try_from(result::device::get_count()?)?;
        if let Some(none) = Obstacle::index(index, count) {
            return Ok(Some(none));
        }
        let card = result::device::get(i32::try_from(index)?)?;
        let name = result::device::get_name(card)?;
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| {
            // SAFETY: the handle was given by the driver just now.
            unsafe { result::device::get_attribute(card, attribute) }
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        Ok(Obstacle::capability(index, &name, capability).or_else(missing_library))
    }

    /// A library that is not there: the stand-ins of the kernels' build answer with an error status.
    fn missing_library() -> Option<Obstacle> {
        // SAFETY: answers a version number such as 13000, a stand-in 1.
        if unsafe { cublas::sys::cublasGetCudartVersion() } < 1000 {
            return Some(Obstacle::NoLibrary {
                name: "cuBLAS",
                file: "libcublas.so.13",
            });
        }
        let mut version = 0;
        // SAFETY: writes one integer.
        let status = unsafe { curand::sys::curandGetVersion(&raw mut version) };
        (status != curand::sys::curandStatus_t::CURAND_STATUS_SUCCESS).then_some(
            Obstacle::NoLibrary {
                name: "cuRAND",
                file: "libcurand.so.10",
            },
        )
    }

    fn pool(cuda: &CudaDevice) -> Result<sys::CUmemoryPool> {
        let stream = cuda.cuda_stream();
        let mut pool = std::ptr::null_mut();
        // SAFETY: writes one handle; the device lives as long as the context.
        let status =
            unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()) };
        anyhow::ensure!(
            status == sys::CUresult::CUDA_SUCCESS,
            "the memory pool: {status:?}"
        );
        Ok(pool)
    }

    fn set(cuda: &CudaDevice, attribute: sys::CUmemPool_attribute, mut value: u64) -> Result<()> {
        // SAFETY: both attributes used here are 64-bit integers, read during the call.
        let status = unsafe {
            sys::cuMemPoolSetAttribute(pool(cuda)?, attribute, (&raw mut value).cast::<c_void>())
        };
        anyhow::ensure!(
            status == sys::CUresult::CUDA_SUCCESS,
            "the memory pool: {status:?}"
        );
        Ok(())
    }

    fn get(cuda: &CudaDevice, attribute: sys::CUmemPool_attribute) -> Result<u64> {
        let mut value = 0u64;
        // SAFETY: the attributes used here are 64-bit integers, written during the call.
        let status = unsafe {
            sys::cuMemPoolGetAttribute(pool(cuda)?, attribute, (&raw mut value).cast::<c_void>())
        };
        anyhow::ensure!(
            status == sys::CUresult::CUDA_SUCCESS,
            "the memory pool: {status:?}"
        );
        Ok(value)
    }

    /// Keeps freed memory in the pool: giving it back at every synchronisation costs milliseconds.
    fn keep_pool(cuda: &CudaDevice) -> Result<()> {
        set(
            cuda,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            u64::MAX,
        )
    }

    pub fn bus_address(cuda: &CudaDevice) -> Option<String> {
        use sys::CUdevice_attribute as Attribute;
        let stream = cuda.cuda_stream();
        let number = |attribute| stream.context().attribute(attribute).ok();
        Some(format!(
            "{:08x}:{:02x}:{:02x}.0",
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?
        ))
    }

    /// Memory of a card, in bytes.
    #[derive(Debug, Clone, Copy)]
    pub struct Memory {
        /// In use by tensors of this process.
        pub used: u64,
        /// Still to be had: what the driver has free and what the pool holds without using it.
        pub free: u64,
        /// Of the card.
        pub total: u64,
    }

    /// Memory in use, free and in all. Freed tensors count as used until the stream is past them.
    pub fn memory(cuda: &CudaDevice) -> Result<Memory> {
        let (free, total) = cuda.cuda_stream().context().mem_get_info()?;
        let used = get(
            cuda,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
        )?;
        let reserved = get(
            cuda,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
        )?;
        Ok(Memory {
            used,
            free: free as u64 + reserved.saturating_sub(used),
            total: total as u64,
        })
    }

    /// The most memory that was in use since the last [`reset_peak`], in bytes.
    pub fn peak_memory(cuda: &CudaDevice) -> Option<u64> {
        get(
            cuda,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        )
        .ok()
    }

    /// Forgets the peak so far.
    pub fn reset_peak(cuda: &CudaDevice) -> Result<()> {
        set(
            cuda,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
            0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert!(open("cpu").unwrap().is_cpu());
        assert!(open("tpu").unwrap_err().to_string().contains("\"tpu\""));
        if !cfg!(feature = "cuda") {
            assert!(open("auto").unwrap().is_cpu());
            assert!(
                open("cuda")
                    .unwrap_err()
                    .to_string()
                    .contains("--features cuda")
            );
        }
    }
}
