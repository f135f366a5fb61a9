//! The frozen base spread over the ranks: what gathers the parts of a layer, beside the work of the device.

use super::{Ranks, Task};
use anyhow::{Context, Result, bail};
use apus_model::device::{Queued, SideStream};
use apus_model::nn::{Gather, Sharding};
use apus_world::{Buffer, Collectives, Control};
use candle_core::{DType, Device, Tensor};
use std::rc::{Rc, Weak};

/// Gathers through what carries the tensors of the ranks, on the stream of all their collectives, so that these have one order.
struct Gatherer {
    control: Rc<Control>,
    /// Gone when the ranks have left each other.
    collectives: Weak<Box<dyn Collectives>>,
    stream: Rc<SideStream>,
}

impl Ranks {
    /// How this rank takes part in a base that is spread over all ranks.
    ///
    /// # Errors
    /// The ranks have left each other.
    pub fn sharding(&self) -> Result<Sharding> {
        let collectives = self.collectives.as_ref();
        let collectives = collectives.context("the ranks have left each other")?;
        let gatherer = Gatherer {
            control: Rc::clone(&self.control),
            collectives: Rc::downgrade(collectives),
            stream: Rc::clone(&self.stream),
        };
        Ok(Sharding {
            rank: self.rank(),
            ranks: self.size(),
            gather: Rc::new(gatherer),
        })
    }
}

impl Gatherer {
    /// Host memory, where the call returns when all is there.
    fn in_host_memory(
        &self,
        collectives: &dyn Collectives,
        part: &Tensor,
    ) -> Result<(Tensor, Queued)> {
        let ranks = self.control.ranks().len();
        let count = part.elem_count() * ranks;
        let bytes = count * part.dtype().size_in_bytes();
        let carry = |own: Buffer, all: Buffer| {
            self.control
                .watched(|| self.stream.queue(bytes, |_| collectives.gather(own, all)))
        };
        match part.dtype() {
            DType::U8 => {
                let (mut own, mut all) = (part.to_vec1::<u8>()?, vec![0; count]);
                let queued = carry(Buffer::U8(&mut own), Buffer::U8(&mut all))?;
                Ok((Tensor::from_vec(all, count, &Device::Cpu)?, queued))
            }
            DType::F32 => {
                let (mut own, mut all) = (part.to_vec1::<f32>()?, vec![0.0; count]);
                let queued = carry(Buffer::F32(&mut own), Buffer::F32(&mut all))?;
                Ok((Tensor::from_vec(all, count, &Device::Cpu)?, queued))
            }
            other => bail!("nothing gathers {other:?} between CPU processes"),
        }
    }

    /// Memory of a card.
    #[cfg(feature = "cuda")]
    fn on_card(
        &self,
        collectives: &dyn Collectives,
        part: &Tensor,
        cuda: &candle_core::CudaDevice,
    ) -> Result<(Tensor, Queued)> {
        use apus_model::device::{address, unset};
        use apus_world::{DeviceBuffer, Element};

        let element = match part.dtype() {
            DType::U8 => Element::U8,
            DType::F32 => Element::F32,
            DType::BF16 => Element::Bf16,
            other => bail!("nothing gathers {other:?} between cards"),
        };
        let own = part.elem_count();
        // It is there before the stream of collectives waits for candle's, in whose order memory is given out.
        let whole = unset(own * self.control.ranks().len(), part.dtype(), cuda)?;
        let (from, to) = (address(part)?, address(&whole)?);
        let bytes = whole.elem_count() * whole.dtype().size_in_bytes();
        let queued = self.stream.queue(bytes, |stream| {
            let buffer = |address, count| {
                Buffer::Device(DeviceBuffer {
                    address,
                    count,
                    element,
                    stream,
                })
            };
            collectives.gather(buffer(from, own), buffer(to, whole.elem_count()))
        })?;
        Ok((whole, queued))
    }

    fn one(&self, collectives: &dyn Collectives, part: &Tensor) -> Result<(Tensor, Queued)> {
        match part.device() {
            Device::Cpu => self.in_host_memory(collectives, part),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => self.on_card(collectives, part, cuda),
            other => bail!("ranks on {other:?} have nothing that gathers their parts"),
        }
    }
}

impl Gather for Gatherer {
    fn start(&self, parts: &[Tensor]) -> Result<Vec<(Tensor, Queued)>> {
        let collectives = self.collectives.upgrade();
        let collectives = collectives.context("the ranks have left each other")?;
        let gathered = parts.iter().map(|part| self.one(&**collectives, part));
        gathered.collect()
    }

    fn arrive(&self, queued: &Queued) -> Result<()> {
        self.stream.wait(queued)
    }

    fn lead(&self) -> Result<()> {
        if self.control.rank() != 0 {
            return Ok(());
        }
        let task = postcard::to_stdvec(&Task::Forward)?;
        let mut all = vec![task; self.control.ranks().len()];
        all[0].clear();
        self.control.scatter(all).map(drop)
    }
}
