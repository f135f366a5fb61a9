//! After the first backward pass: did a gradient reach every adapter?
//!
//! A cut graph or a wrong target trains nothing without a word in other tools. Every `lora_B` must
//! have a gradient other than zero, and every `lora_A` whose B is not zero. Experts that no token
//! reached are exempt: the check is on the whole tensor, and a tensor of experts none of which was
//! reached is reported as such by its layer.

use anyhow::{Result, bail};
use apus_model::nn::Param;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names the adapters without a gradient, of those whose gradients this rank has and that are not frozen.
///
/// # Errors
/// One or more have none.
pub fn check<'a>(
    params: impl Iterator<Item = &'a Arc<Param>>,
    own: impl Iterator<Item = &'a Arc<Param>>,
) -> Result<()> {
    let params: BTreeMap<&str, &Arc<Param>> = params.map(|p| (p.name(), p)).collect();
    let mut silent = Vec::new();
    for param in own.filter(|param| !param.is_frozen()) {
        let name = param.name();
        let expected = if name.contains("lora_B") {
            true
        } else if name.contains("lora_A") {
            match params.get(name.replace("lora_A", "lora_B").as_str()) {
                Some(b) => any(&b.value())?,
                None => false,
            }
        } else {
            false
        };
        let found = match param.grad() {
            Some(grad) => any(&grad)?,
            None => false,
        };
        if expected && !found {
            silent.push(name);
        }
    }
    if silent.is_empty() {
        return Ok(());
    }
    bail!(
        "after the first backward pass these adapters have no gradient, so they would not be \
         trained: {}; please report this with the configuration",
        silent.join(", ")
    )
}

fn any(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.abs()?.max_all()?.to_scalar::<f32>()? > 0.0)
}
