//! The one place where kernels are launched.
//!
//! All work goes to one stream of one device, so the order of calls is the order of execution and a buffer that is freed is
//! not reused before the kernels that read it are done.

use crate::argument::Passed;
use crate::{Grid, Module, functions};
use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaStream, result};
use std::ffi::c_void;
use std::ptr;

/// More parameters than any kernel has.
const MOST: usize = 24;

/// Puts a kernel of a module on the stream; a grid without blocks does nothing. Only launchers of the table call it.
pub fn launch(
    stream: &CudaStream,
    module: &'static Module,
    kernel: &'static str,
    grid: Grid,
    arguments: &[&dyn Passed],
) -> Result<()> {
    let [x, y, z] = grid.blocks;
    if x * y * z == 0 {
        return Ok(());
    }
    let blocks = (u32::try_from(x)?, u32::try_from(y)?, u32::try_from(z)?);
    let function = functions::get(stream.context(), module, kernel, grid.shared)
        .with_context(|| format!("CUDA kernel {kernel}"))?;
    ensure!(
        arguments.len() <= MOST,
        "CUDA kernel {kernel}: {} arguments, expected at most {MOST}",
        arguments.len()
    );
    let mut addresses = [ptr::null_mut::<c_void>(); MOST];
    for (address, argument) in addresses.iter_mut().zip(arguments) {
        *address = ptr::from_ref(*argument).cast::<c_void>().cast_mut();
    }
    stream.context().bind_to_thread()?;
    // SAFETY: the launcher's fields are the kernel's parameters, which `tests/declared` compares with the source: as many,
    // in this order, of these types. Each `Passed` is the value itself, read before the call returns. Pointers come from
    // tensors that live until the launch is on the stream; that shapes fit them is what the operations check first.
    unsafe {
        result::launch_kernel(
            function.cu_function(),
            blocks,
            (grid.threads, 1, 1),
            grid.shared,
            stream.cu_stream(),
            &mut addresses[..arguments.len()],
        )
    }
    .with_context(|| format!("CUDA kernel {kernel}"))
}
