//! The sum of all ranks' gradients, which travel while the backward pass of the last micro-batch goes on.
//!
//! A bucket is one sum over the ranks, and its gradients become parts of it: nothing is copied back. A parameter that got no
//! gradient on this rank takes part with zeros, since it may have got one elsewhere. Of a bucket with an owner only the
//! owner keeps the sum; the others give the memory back as soon as it is read, so that no rank holds the gradients of all.

use super::buckets::Bucket;
use super::carry::carry;
use anyhow::Result;
use apus_model::device::{Queued, SideStream};
use apus_model::nn::{Param, Ready};
use apus_world::{Collectives, Control};
use candle_core::{DType, Tensor};
use std::collections::VecDeque;

/// How many buckets that another rank gets may wait for their memory to be given back: candle's stream has to have waited for
/// them, and for one of a layer ago it hardly stands still.
const LEFT_BEHIND: usize = 2;

/// The gradients of one step on their way.
pub struct Reduction<'a> {
    control: Option<&'a Control>,
    collectives: &'a dyn Collectives,
    stream: &'a SideStream,
    rank: usize,
    buckets: &'a [Bucket],
    /// The first bucket that has not gone out.
    next: usize,
    kept: Vec<Flying<'a>>,
    left_behind: VecDeque<Flying<'a>>,
}

/// A bucket that the other stream may be working on, whose memory therefore stays.
struct Flying<'a> {
    bucket: &'a Bucket,
    joined: Tensor,
    queued: Queued,
}

impl<'a> Reduction<'a> {
    /// Of a step at this rank; with `control`, the watch over the ranks knows when this one waits.
    pub fn new(
        (collectives, stream): (&'a dyn Collectives, &'a SideStream),
        control: Option<&'a Control>,
        rank: usize,
        buckets: &'a [Bucket],
    ) -> Self {
        Self {
            control,
            collectives,
            stream,
            rank,
            buckets,
            next: 0,
            kept: Vec::new(),
            left_behind: VecDeque::new(),
        }
    }

    /// The gradients of this part of the model are complete. Every rank says so in the same order.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn ready(&mut self, part: Ready) -> Result<()> {
        while let Some(bucket) = self.buckets.get(self.next)
            && bucket.after <= part
        {
            self.send(bucket)?;
            self.next += 1;
        }
        Ok(())
    }

    /// Waits for what is on its way. Afterwards each parameter that this rank updates has its gradient, and no other one.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn finish(mut self) -> Result<()> {
        self.ready(Ready::Embedding)?;
        for flying in self.left_behind.iter().chain(&self.kept) {
            self.stream.wait(&flying.queued)?;
        }
        for Flying { bucket, joined, .. } in self.kept {
            for (param, sum) in bucket.parts(&joined) {
                param.accumulate(sum?)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, bucket: &'a Bucket) -> Result<()> {
        let grads = bucket.moving().map(|param| taken(param));
        let grads = grads.collect::<Result<Vec<Tensor>>>()?;
        if grads.is_empty() {
            return Ok(());
        }
        let joined = Tensor::cat(&grads, 0)?;
        drop(grads);
        let (joined, queued) = self.watched(|| {
            carry(self.stream, joined, |values| match bucket.owner {
                None => self.collectives.sum(values),
                Some(owner) => self.collectives.reduce(values, owner),
            })
        })?;
        let flying = Flying {
            bucket,
            joined,
            queued,
        };
        if bucket.owner.is_none_or(|owner| owner == self.rank) {
            self.kept.push(flying);
            return Ok(());
        }
        self.left_behind.push_back(flying);
        if self.left_behind.len() > LEFT_BEHIND
            && let Some(oldest) = self.left_behind.pop_front()
        {
            self.stream.wait(&oldest.queued)?;
        }
        Ok(())
    }

    fn watched<R>(&self, run: impl FnOnce() -> R) -> R {
        match self.control {
            Some(control) => control.watched(run),
            None => run(),
        }
    }
}

/// The gradient of a parameter as one row, which the parameter has no more.
fn taken(param: &Param) -> Result<Tensor> {
    let value = param.value();
    Ok(match param.take_grad() {
        Some(grad) => grad.flatten_all()?,
        None => Tensor::zeros(value.elem_count(), DType::F32, value.device())?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::buckets::{Sizes, Trained, buckets};
    use super::*;
    use apus_world::Buffer;
    use candle_core::Device;
    use std::cell::RefCell;

    /// Two ranks with the same gradients, and the calls that were made: the owner and how many numbers.
    #[derive(Default)]
    struct Twins(RefCell<Vec<(Option<usize>, usize)>>);

    impl Twins {
        fn double(&self, values: Buffer, root: Option<usize>) -> Result<()> {
            if let Buffer::F32(values) = values {
                self.0.borrow_mut().push((root, values.len()));
                values.iter_mut().for_each(|value| *value *= 2.0);
            }
            Ok(())
        }
    }

    impl Collectives for Twins {
        fn name(&self) -> String {
            "twins".to_owned()
        }
        fn sum(&self, values: Buffer) -> Result<()> {
            self.double(values, None)
        }
        fn reduce(&self, values: Buffer, root: usize) -> Result<()> {
            self.double(values, Some(root))
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

    /// Four parameters, the last of which has no gradient; each even one is owned by rank 0 where they are owned.
    fn params(owned: bool) -> Vec<Trained> {
        let shapes: [&[usize]; 4] = [&[2, 3], &[4], &[5, 1], &[1]];
        let param = |(at, shape): (usize, &&[usize])| {
            let value = Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap();
            let param = Param::new(at.to_string(), &value, true).unwrap();
            if at < 3 {
                let grad = Tensor::arange(0.0, value.elem_count() as f32, &Device::Cpu).unwrap();
                param.accumulate(grad.reshape(*shape).unwrap()).unwrap();
            }
            Trained {
                part: Ready::Layer(at),
                owner: owned.then_some(at % 2),
                param,
            }
        };
        shapes.iter().enumerate().map(param).collect()
    }

    const SIZES: Sizes = Sizes { least: 7, most: 9 };

    #[test]
    fn sums_come_back_in_the_shape_of_their_parameter() {
        let (params, stream) = (params(false), SideStream::new(&Device::Cpu).unwrap());
        let (twins, buckets) = (Twins::default(), buckets(&params, SIZES));
        let mut reduction = Reduction::new((&twins, &stream), None, 0, &buckets);
        let calls = |reduction: &mut Reduction, part| {
            reduction.ready(part).unwrap();
            twins.0.borrow().clone()
        };
        assert_eq!(calls(&mut reduction, Ready::Head), []);
        assert_eq!(calls(&mut reduction, Ready::Layer(3)), []);
        assert_eq!(calls(&mut reduction, Ready::Layer(2)), []);
        // 1 + 5 + 4 numbers: the bucket is full before the last of them.
        let full = [(None, 6), (None, 4)];
        assert_eq!(calls(&mut reduction, Ready::Layer(1)), full);
        reduction.finish().unwrap();
        assert_eq!(twins.0.borrow().len(), 3);
        assert_eq!(stream.bytes(), 16 * 4);
        for (at, Trained { param, .. }) in params.iter().enumerate() {
            let grad = param.grad().unwrap();
            assert_eq!(grad.dims(), param.value().dims());
            let values: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            let expected =
                (0..values.len()).map(|value| if at == 3 { 0.0 } else { 2.0 * value as f32 });
            assert_eq!(values, expected.collect::<Vec<_>>());
        }
    }

    /// A rank without a micro-batch makes the calls of one that has some, and a rank keeps what it owns.
    #[test]
    fn sums_go_to_their_owner() {
        let stream = SideStream::new(&Device::Cpu).unwrap();
        let mut calls = Vec::new();
        for (rank, idle) in [(0, false), (1, false), (1, true)] {
            let (params, twins) = (params(true), Twins::default());
            if idle {
                params
                    .iter()
                    .for_each(|trained| drop(trained.param.take_grad()));
            }
            let buckets = buckets(&params, SIZES);
            let mut reduction = Reduction::new((&twins, &stream), None, rank, &buckets);
            for layer in (0..4).rev() {
                reduction.ready(Ready::Layer(layer)).unwrap();
            }
            reduction.finish().unwrap();
            for Trained { owner, param, .. } in &params {
                assert_eq!(
                    param.grad().is_some(),
                    *owner == Some(rank),
                    "{}",
                    param.name()
                );
            }
            calls.push(twins.0.take());
        }
        assert_eq!(calls[0], [(Some(0), 5), (Some(1), 5), (Some(0), 6)]);
        assert!(calls.iter().all(|other| *other == calls[0]));
    }
}
