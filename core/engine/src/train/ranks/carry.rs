//! A flat tensor of f32 on its way through a collective, from wherever it lies.

use anyhow::Result;
use apus_model::device::{Queued, SideStream};
use apus_world::Buffer;
use candle_core::{Device, Tensor};

/// Hands a contiguous tensor of one dimension to a collective. The tensor that is returned holds the result, once candle's
/// stream has waited for it; it has to live until then.
pub fn carry(
    stream: &SideStream,
    tensor: Tensor,
    call: impl FnOnce(Buffer) -> Result<()>,
) -> Result<(Tensor, Queued)> {
    let bytes = tensor.elem_count() * size_of::<f32>();
    match tensor.device() {
        Device::Cpu => {
            let mut values: Vec<f32> = tensor.to_vec1()?;
            let queued = stream.queue(bytes, |_| call(Buffer::F32(&mut values)))?;
            Ok((
                Tensor::from_vec(values, tensor.dims(), &Device::Cpu)?,
                queued,
            ))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let address = apus_model::device::address(&tensor)?;
            let count = tensor.elem_count();
            let queued = stream.queue(bytes, |stream| {
                call(Buffer::Device(apus_world::DeviceBuffer {
                    address,
                    count,
                    element: apus_world::Element::F32,
                    stream,
                }))
            })?;
            Ok((tensor, queued))
        }
        other => anyhow::bail!("ranks on {other:?} have nothing that carries their numbers"),
    }
}
