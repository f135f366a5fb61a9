//! A tensor as a message to another rank, in the form of safetensors, which says its type and shape.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// The key of the one tensor in a message.
const KEY: &str = "value";

/// The message.
pub fn packed(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensors = HashMap::from([(KEY, tensor.to_device(&Device::Cpu)?)]);
    Ok(safetensors::serialize(tensors, None)?)
}

/// The tensor of a message, in host memory.
///
/// # Errors
/// It is no such message.
pub fn unpacked(bytes: &[u8]) -> Result<Tensor> {
    let mut tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
    tensors.remove(KEY).context("a tensor is missing")
}
