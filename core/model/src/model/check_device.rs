//! What a device does not compute is said before a weight is read.

use crate::families::{Architecture, MlpSpec};
use crate::ops::{attention, swiglu};
use anyhow::{Context, Result};
use candle_core::Device;

/// Checks that every layer can be computed on a device. The CPU computes everything; a card has kernels for some sizes of heads
/// and, in experts, for some activations.
///
/// # Errors
/// A card has no kernel for a layer; the error names the layer and what there is.
pub fn check_device(architecture: &Architecture, device: &Device) -> Result<()> {
    for (index, layer) in architecture.layers.iter().enumerate() {
        let check = || {
            attention::check_device(layer.attention.heads, device)?;
            match &layer.mlp {
                MlpSpec::Dense(_) => Ok(()),
                MlpSpec::Mixture(mixture) => swiglu::check_device(mixture.activation, device),
            }
        };
        check().with_context(|| format!("layer {index}"))?;
    }
    Ok(())
}
