//! Operations that move elements or look at them in another shape.

use super::{Arguments, exactly, size, sizes};
use anyhow::{Result, bail};
use apus_sdk::Op;
use candle_core::Tensor;

pub(super) fn run(op: Op, arguments: &Arguments) -> Result<Tensor> {
    let (x, ints) = (arguments.one()?, arguments.ints);
    Ok(match op {
        Op::Reshape => x.reshape(sizes(ints)?)?,
        Op::Permute => x.permute(sizes(ints)?)?,
        Op::Narrow => {
            let [dim, start, len] = exactly(ints)?;
            x.narrow(size(dim)?, size(start)?, size(len)?)?
        }
        Op::BroadcastTo => x.broadcast_as(sizes(ints)?)?,
        Op::Cat => {
            let [dim] = exactly(ints)?;
            Tensor::cat(&arguments.all().collect::<Vec<_>>(), size(dim)?)?
        }
        _ => bail!("not an operation on shapes"),
    })
}
