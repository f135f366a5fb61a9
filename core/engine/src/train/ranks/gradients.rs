//! The sum of all ranks' gradients.
//!
//! Gradients are put one after another into buffers of bounded size, each of which is one sum over the ranks, and become
//! parts of that buffer: nothing is copied back. A parameter that got no gradient on this rank takes part with zeros, since
//! it may have got one elsewhere.

use anyhow::Result;
use apus_model::device::SideStream;
use apus_model::nn::Param;
use apus_world::{Buffer, Collectives};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// The most numbers of a buffer: 256 MiB, at which two cards of one host come near the rate of their link.
const MOST: usize = 64 << 20;

/// Adds up the gradients of these parameters over all ranks; afterwards each of them has one.
pub fn sum(
    collectives: &dyn Collectives,
    stream: &SideStream,
    params: &[Arc<Param>],
) -> Result<()> {
    for bucket in buckets(params, MOST) {
        let grads = bucket.iter().map(|param| match param.take_grad() {
            Some(grad) => Ok(grad.flatten_all()?),
            None => Ok(Tensor::zeros(
                param.value().elem_count(),
                DType::F32,
                param.value().device(),
            )?),
        });
        let grads = grads.collect::<Result<Vec<Tensor>>>()?;
        let joined = Tensor::cat(&grads, 0)?;
        drop(grads);
        let joined = added(collectives, stream, joined)?;
        let mut start = 0;
        for param in bucket {
            let value = param.value();
            let count = value.elem_count();
            param.accumulate(joined.narrow(0, start, count)?.reshape(value.dims())?)?;
            start += count;
        }
    }
    Ok(())
}

/// Parameters in groups of at most `most` numbers; one that is larger is a group of its own.
fn buckets(params: &[Arc<Param>], most: usize) -> Vec<&[Arc<Param>]> {
    let mut buckets = Vec::new();
    let (mut start, mut count) = (0, 0);
    for (at, param) in params.iter().enumerate() {
        let size = param.value().elem_count();
        if at > start && count + size > most {
            buckets.push(&params[start..at]);
            (start, count) = (at, 0);
        }
        count += size;
    }
    if start < params.len() {
        buckets.push(&params[start..]);
    }
    buckets
}

/// The sum over all ranks of a contiguous tensor.
fn added(collectives: &dyn Collectives, stream: &SideStream, tensor: Tensor) -> Result<Tensor> {
    match tensor.device() {
        Device::Cpu => {
            let mut values: Vec<f32> = tensor.to_vec1()?;
            stream.run(|_| collectives.sum(Buffer::F32(&mut values)))?;
            Ok(Tensor::from_vec(values, tensor.dims(), &Device::Cpu)?)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let address = apus_model::device::address(&tensor)?;
            stream.run(|stream| {
                collectives.sum(Buffer::Device(apus_world::DeviceBuffer {
                    address,
                    count: tensor.elem_count(),
                    element: apus_world::Element::F32,
                    stream,
                }))
            })?;
            Ok(tensor)
        }
        other => anyhow::bail!("ranks on {other:?} have nothing that carries their gradients"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ranks with the same gradients.
    struct Twins;

    impl Collectives for Twins {
        fn name(&self) -> String {
            "twins".to_owned()
        }
        fn sum(&self, values: Buffer) -> Result<()> {
            if let Buffer::F32(values) = values {
                values.iter_mut().for_each(|value| *value *= 2.0);
            }
            Ok(())
        }
        fn broadcast(&self, _: Buffer, _: usize) -> Result<()> {
            Ok(())
        }
        fn gather(&self, _: Buffer, _: Buffer) -> Result<()> {
            Ok(())
        }
        fn check(&self) -> Result<()> {
            Ok(())
        }
        fn leave(self: Box<Self>) -> Result<()> {
            Ok(())
        }
        fn abort(&self) {}
    }

    fn params() -> Vec<Arc<Param>> {
        let shapes: [&[usize]; 4] = [&[2, 3], &[4], &[5, 1], &[1]];
        let param = |(at, shape): (usize, &&[usize])| {
            let value = Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap();
            Param::new(at.to_string(), &value, true).unwrap()
        };
        shapes.iter().enumerate().map(param).collect()
    }

    #[test]
    fn sums_come_back_in_the_shape_of_their_parameter() {
        let params = params();
        for param in &params[..3] {
            let count = param.value().elem_count();
            let grad = Tensor::arange(0.0, count as f32, &Device::Cpu).unwrap();
            param
                .accumulate(grad.reshape(param.value().dims()).unwrap())
                .unwrap();
        }
        sum(&Twins, &SideStream::new(&Device::Cpu).unwrap(), &params).unwrap();
        for (at, param) in params.iter().enumerate() {
            let grad = param.grad().unwrap();
            assert_eq!(grad.dims(), param.value().dims());
            let values: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            let expected =
                (0..values.len()).map(|value| if at == 3 { 0.0 } else { 2.0 * value as f32 });
            assert_eq!(values, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn buffers_are_bounded() {
        let params = params();
        let names = |most| -> Vec<String> {
            let buckets = buckets(&params, most);
            let name = |bucket: &&[Arc<Param>]| bucket.iter().map(|param| param.name()).collect();
            buckets.iter().map(name).collect()
        };
        assert_eq!(names(100), ["0123"]);
        assert_eq!(names(10), ["01", "23"]);
        assert_eq!(names(1), ["0", "1", "2", "3"]);
        assert!(buckets(&[], 1).is_empty());
    }
}
