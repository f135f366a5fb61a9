//! The tensors of an adapter on disk, `adapter_model.safetensors`: written in f32, read in f32, and finite both ways.

use super::expected::{self, Shapes};
use super::peft_config::PeftConfig;
use crate::nn::Param;
use crate::ops::reduce;
use crate::weights::{Shard, apply_umask};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// The name of the file of tensors.
pub const TENSORS: &str = "adapter_model.safetensors";

/// Writes an adapter: f32 tensors under the parameters' names, and the configuration.
///
/// The caller gives a fresh directory and renames it when it is whole.
///
/// # Errors
/// A value is not finite, or a file cannot be written.
pub fn save(dir: &Path, params: &[Arc<Param>], config: &PeftConfig) -> Result<()> {
    save_tensors(dir, params)?;
    config.write(dir)
}

/// Writes parameters in f32 under their names.
pub fn save_tensors(dir: &Path, params: &[Arc<Param>]) -> Result<()> {
    let tensors = params.iter().map(|p| (p.name(), p.value()));
    ensure_finite(tensors).context("the adapter is not saved")?;
    let mut written = Vec::with_capacity(params.len());
    for param in params {
        let values = param.value().to_device(&Device::Cpu)?.flatten_all()?;
        let values = values.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        written.push((param, bytes));
    }
    let views = written
        .iter()
        .map(|(p, bytes)| {
            let shape = p.value().dims().to_vec();
            Ok((p.name(), TensorView::new(Dtype::F32, shape, bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = dir.join(TENSORS);
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .map_err(Into::into)
        .and_then(|()| apply_umask(&path))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Reads tensors of these names and shapes as f32.
pub fn read_tensors(path: &Path, expected: &Shapes) -> Result<BTreeMap<String, Tensor>> {
    let place = || path.display().to_string();
    let file = Shard::open(path.to_owned()).context("is this the folder of an adapter?")?;
    let mut shapes = Shapes::new();
    for name in file.names() {
        let shape = file.tensor(&name)?.shape().to_vec();
        shapes.insert(name, shape);
    }
    expected::compare(&shapes, expected, None).with_context(place)?;
    let tensors = shapes.into_keys().map(|name| {
        let tensor = read(&file, &name)?;
        Ok((name, tensor))
    });
    let tensors: BTreeMap<String, Tensor> = tensors.collect::<Result<_>>()?;
    let all = tensors.iter().map(|(name, t)| (name.as_str(), t.clone()));
    ensure_finite(all).with_context(place)?;
    Ok(tensors)
}

/// Checks tensors in f32.
///
/// # Errors
/// Some hold NaN or infinities; the error names the first.
pub fn ensure_finite<'a>(tensors: impl Iterator<Item = (&'a str, Tensor)>) -> Result<()> {
    let (names, tensors): (Vec<&str>, Vec<Tensor>) = tensors.unzip();
    if reduce::finite(&tensors)? {
        return Ok(());
    }
    let mut bad = Vec::new();
    for (name, tensor) in names.into_iter().zip(tensors) {
        if !reduce::finite(&[tensor])? {
            bad.push(name.to_owned());
        }
    }
    let bad: Vec<&String> = bad.iter().collect();
    bail!(
        "{} of its tensors hold values that are not finite: {}",
        bad.len(),
        expected::some(&bad)
    )
}

/// Reads a tensor as f32.
pub fn read(file: &Shard, name: &str) -> Result<Tensor> {
    let stored = file.tensor(name)?;
    let dtype = match stored.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => bail!(
            "{}: type {other:?}, expected F32, F16 or BF16",
            stored.location()
        ),
    };
    let bytes = stored.to_vec()?;
    let tensor = Tensor::from_raw_buffer(&bytes, dtype, stored.shape(), &Device::Cpu)?;
    Ok(tensor.to_dtype(DType::F32)?)
}
