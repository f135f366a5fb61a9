//! Changes in place.

use super::{Arguments, exactly};
use anyhow::{Result, ensure};
use apus_sdk::{AdamW, Update};
use candle_core::Tensor;

pub(super) fn run(op: Update, arguments: &Arguments) -> Result<()> {
    // The second is read by every update: a source, or a gradient.
    let mut written = (0..arguments.tensors.len()).filter(|at| *at != 1);
    ensure!(
        !written.any(|at| arguments.is_to_read(at)),
        "this tensor was given to read; a parameter's value is set by Run::set, and a tensor of one's own is made by an \
         operation, such as affine(1.0, 0.0)"
    );
    match op {
        Update::Set => {
            let [x, src] = arguments.tensors()?;
            ensure!(
                src.dims() == x.dims() && src.dtype() == x.dtype(),
                "a tensor is set to one of its own shape and type"
            );
            match shared(x, src) {
                true => apus_model::ops::copy::into(x, &src.copy()?),
                false => apus_model::ops::copy::into(x, src),
            }
        }
        Update::AdamW => {
            let [param, grad, m, v] = arguments.tensors()?;
            ensure!(
                !shared(param, m)
                    && !shared(param, v)
                    && !shared(m, v)
                    && !shared(grad, param)
                    && !shared(grad, m)
                    && !shared(grad, v),
                "parameter, gradient and moments are four different tensors"
            );
            let [step] = exactly(arguments.ints)?;
            let [lr, beta1, beta2, eps, weight_decay] = exactly(arguments.floats)?;
            let hyper = AdamW {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                step: step.cast_unsigned(),
            };
            apus_model::ops::adamw::step(param, grad, m, v, &hyper)
        }
    }
}

/// Whether both are the same memory, or parts of it: candle would wait for itself for ever.
fn shared(a: &Tensor, b: &Tensor) -> bool {
    let ((a, _), (b, _)) = (a.storage_and_layout(), b.storage_and_layout());
    std::ptr::eq(&raw const *a, &raw const *b)
}
