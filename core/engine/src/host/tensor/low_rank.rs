//! Low-rank updates: recognised where they are all that a tuner does in a layer, else computed.

use super::{Arguments, Role, exactly};
use anyhow::{Result, bail, ensure};
use apus_model::model::LowRank;
use apus_sdk::Op;
use candle_core::{DType, Tensor};

pub(super) fn run(op: Op, arguments: &Arguments) -> Result<(Tensor, Option<Role>)> {
    let (parts, magnitude) = match op {
        Op::LowRank => (arguments.tensors::<4>()?, None),
        Op::LowRankDecomposed => {
            let [y, x, a, b, magnitude] = arguments.tensors()?;
            ([y, x, a, b], Some(magnitude))
        }
        _ => bail!("not a low-rank update"),
    };
    let [y, x, a, b] = parts;
    let (scale, dropout) = match arguments.floats {
        [scale, dropout] if magnitude.is_none() => (*scale, *dropout),
        floats => {
            let [scale] = exactly(floats)?;
            (scale, 0.0)
        }
    };
    ensure!(scale.is_finite(), "the scale is {scale}");
    ensure!(
        (0.0..1.0).contains(&dropout),
        "the dropout is {dropout}, expected a share from 0 to below 1"
    );
    let sides = (y.dims2()?, x.dims2()?, a.dims2()?, b.dims2()?);
    let ((rows, outputs), (same_rows, inputs), (rank, a_inputs), (b_outputs, b_rank)) = sides;
    ensure!(
        rows == same_rows && inputs == a_inputs && outputs == b_outputs && rank == b_rank,
        "expected an output [T, O], an input [T, I], A [R, I] and B [O, R]"
    );
    if let Some(magnitude) = magnitude {
        ensure!(magnitude.dims() == [outputs], "expected a magnitude [O]");
    }
    let mut all = parts.into_iter().chain(magnitude);
    ensure!(all.all(|part| part.dtype() == DType::F32), "F32 is needed");
    if let Some(update) = recognised(&arguments.roles(), scale, dropout) {
        return Ok((y.clone(), Some(Role::Updated(update))));
    }
    ensure!(
        magnitude.is_none() && dropout == 0.0,
        "a magnitude and dropout are for a tuner whose output is this and nothing else, of the layer's output, its input and its \
         parameters as they were given"
    );
    let update = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
    Ok(((y + (update * scale)?)?, None))
}

/// The update, if the tensors are a layer's output, its input, and parameters that are each used once.
fn recognised(roles: &[Option<Role>], scale: f64, dropout: f64) -> Option<LowRank> {
    let [Some(Role::Output), Some(Role::Input), params @ ..] = roles else {
        return None;
    };
    let places = params.iter().map(|role| match role {
        Some(Role::Param(place)) => Some(*place),
        _ => None,
    });
    let places: Vec<usize> = places.collect::<Option<_>>()?;
    let (a, b, magnitude) = match *places.as_slice() {
        [a, b] => (a, b, None),
        [a, b, magnitude] => (a, b, Some(magnitude)),
        _ => return None,
    };
    (a != b && magnitude.is_none_or(|magnitude| ![a, b].contains(&magnitude))).then_some(LowRank {
        a,
        b,
        magnitude,
        scale,
        dropout,
    })
}
