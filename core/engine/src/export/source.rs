//! The values of a model's tensors, with an adapter merged in, a part at a time.

use super::float;
use anyhow::{Context, Result, bail, ensure};
use apus_model::adapter::{Adapter, ExpertBytes, ExpertRoom, Squares, convert_expert};
use apus_model::tensors::{FileTensor, TensorList, TensorSpec};
use apus_model::weights::{Directory, StoredTensor, WeightSource};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A model in a directory, and what is merged into it.
pub struct Source<'a> {
    /// The files of the model.
    pub directory: &'a Directory,
    /// Its tensors.
    pub list: &'a TensorList,
    adapter: Option<&'a Adapter>,
    /// What packing changed, by layer and name of the matrices.
    packed: Mutex<BTreeMap<(Option<usize>, &'a str), Squares>>,
}

impl<'a> Source<'a> {
    /// A model with an adapter, or as it is.
    pub fn new(
        directory: &'a Directory,
        list: &'a TensorList,
        adapter: Option<&'a Adapter>,
    ) -> Self {
        Self {
            directory,
            list,
            adapter,
            packed: Mutex::default(),
        }
    }

    /// What packing changed, by the names of matrices, in the order of the layers.
    pub fn packed(&self) -> Vec<(&'a str, Squares)> {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed
            .iter()
            .map(|((_, name), sums)| (*name, *sums))
            .collect()
    }

    /// Whether the adapter changes a tensor.
    pub fn touches(&self, name: &str) -> bool {
        self.adapter.is_some_and(|adapter| adapter.touches(name))
    }

    /// Experts, inputs and outputs, after a check of the tensors in the file.
    ///
    /// # Errors
    /// They have another shape or type than the model's configuration says.
    pub fn experts(&self, spec: &TensorSpec) -> Result<(usize, usize, usize)> {
        let (Some(packed), &[experts, inputs, outputs]) = (spec.packed(), spec.shape.as_slice())
        else {
            bail!("{} is never packed", spec.name)
        };
        let check = |name: &str, shape: &[usize], u8s: bool| -> Result<()> {
            let stored = self.directory.stored(name)?;
            ensure!(
                stored.shape() == shape && shape.iter().product::<usize>() > 0,
                "{}: found shape {:?}, expected {shape:?} by config.json",
                stored.location(),
                stored.shape()
            );
            match u8s {
                true => ensure!(
                    stored.dtype() == Dtype::U8,
                    "{}: type {:?}, expected U8",
                    stored.location(),
                    stored.dtype()
                ),
                false => drop(float(stored)?),
            }
            Ok(())
        };
        match self.directory.is_packed(spec) {
            true => packed
                .iter()
                .try_for_each(|tensor| check(&tensor.name, &tensor.shape, true))?,
            false => check(&spec.name, &spec.shape, false)?,
        }
        Ok((experts, inputs, outputs))
    }

    /// The type of matrices that are not packed: that of the file, or BF16.
    pub fn dense_type(&self, spec: &TensorSpec) -> Result<DType> {
        match self.directory.is_packed(spec) {
            true => Ok(DType::BF16),
            false => float(self.directory.stored(&spec.name)?),
        }
    }

    /// Gives rows of a tensor that is no matrix of experts, converted to a type.
    ///
    /// # Errors
    /// A file cannot be read, or the adapter does not fit.
    pub fn rows(&self, name: &str, rows: &Range<usize>, dtype: DType, to: &mut [u8]) -> Result<()> {
        let stored = self.directory.stored(name)?;
        let mut shape = stored.shape().to_vec();
        let all = shape.first().copied().unwrap_or(1);
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let row = stored.size() / all.max(1);
        let mut bytes = vec![0; row * rows.len()];
        stored.read(rows.start * row, &mut bytes)?;
        let base = Tensor::from_raw_buffer(&bytes, float(stored)?, &shape, &Device::Cpu)?;
        let merged = match self.adapter {
            Some(adapter) if adapter.touches(name) => adapter.merged_rows(name, rows, &base)?,
            _ => None,
        };
        super::put(&merged.unwrap_or(base), dtype, to)
    }

    /// Blocks and scales as they are stored.
    fn packed_of<'b>(&'b self, packed: &'b [FileTensor; 2]) -> Result<[StoredTensor<'b>; 2]> {
        let [blocks, scales] = packed;
        let stored = |tensor: &'b FileTensor| self.directory.stored(&tensor.name);
        Ok([stored(blocks)?, stored(scales)?])
    }

    /// Reads the matrix of an expert as it is stored.
    fn own_bytes<'b>(
        &self,
        spec: &TensorSpec,
        expert: usize,
        experts: usize,
        buffer: &'b mut Vec<u8>,
    ) -> Result<ExpertBytes<'b>> {
        let Some(packed) = spec.packed().filter(|_| self.directory.is_packed(spec)) else {
            let stored = self.directory.stored(&spec.name)?;
            buffer.resize(stored.size() / experts, 0);
            stored.read(expert * buffer.len(), buffer)?;
            return Ok(ExpertBytes::Dense(buffer, self.dense_type(spec)?));
        };
        let [blocks, scales] = self.packed_of(&packed)?;
        let (b, s) = (blocks.size() / experts, scales.size() / experts);
        buffer.resize(b + s, 0);
        let (b, s) = buffer.split_at_mut(b);
        blocks.read(expert * b.len(), b)?;
        scales.read(expert * s.len(), s)?;
        Ok(ExpertBytes::Packed(b, s))
    }

    /// The matrix `[O, I]` of an expert, f32.
    fn own_matrix(
        &self,
        spec: &TensorSpec,
        expert: usize,
        (experts, inputs, outputs): (usize, usize, usize),
    ) -> Result<Tensor> {
        let mut buffer = Vec::new();
        let from = self.own_bytes(spec, expert, experts, &mut buffer)?;
        let mut rows = vec![0; inputs * outputs * 4];
        let mut room = ExpertRoom::Rows(&mut rows, DType::F32);
        convert_expert(&from, (inputs, outputs), None, &mut room)?;
        let shape = &[outputs, inputs];
        Ok(Tensor::from_raw_buffer(
            &rows,
            DType::F32,
            shape,
            &Device::Cpu,
        )?)
    }

    /// Gives the matrix of an expert. What was not trained stays packed to the bit where it is packed and its room is.
    ///
    /// # Errors
    /// A file cannot be read, or the adapter does not fit.
    pub fn expert(
        &self,
        spec: &'a TensorSpec,
        expert: usize,
        buffer: &mut Vec<u8>,
        mut room: ExpertRoom,
    ) -> Result<()> {
        let (experts, inputs, outputs) = self.experts(spec)?;
        let mut work = || -> Result<()> {
            let packed = spec.packed().filter(|_| self.directory.is_packed(spec));
            let merged = match self.adapter {
                None => None,
                Some(adapter) => adapter.merged_expert(spec, expert, || {
                    self.own_matrix(spec, expert, (experts, inputs, outputs))
                })?,
            };
            let update = match self.adapter {
                Some(adapter) if merged.is_none() => {
                    adapter.expert_update(&spec.name, (expert, [experts, inputs, outputs]))?
                }
                _ => None,
            };
            // An expert that was not trained stays packed to the bit. Elsewhere zeros are added as anything else is: they make -0 to 0.
            let packs = matches!(room, ExpertRoom::Packed(..));
            let update = match (update, &packed) {
                (Some(update), Some(_)) if packs && update.is_zero() => None,
                (update, ..) => update,
            };
            let dtype = self.dense_type(spec)?;
            // Nothing is read where everything is stored beside the adapter.
            let from = match &merged {
                Some(merged) => {
                    buffer.resize(inputs * outputs * dtype.size_in_bytes(), 0);
                    super::put(merged, dtype, buffer)?;
                    ExpertBytes::Dense(buffer, dtype)
                }
                None => {
                    if let (Some(packed), None) = (&packed, &update)
                        && let ExpertRoom::Packed(to_blocks, to_scales) = &mut room
                    {
                        let [blocks, scales] = self.packed_of(packed)?;
                        blocks.read(expert * to_blocks.len(), to_blocks)?;
                        return scales.read(expert * to_scales.len(), to_scales);
                    }
                    self.own_bytes(spec, expert, experts, buffer)?
                }
            };
            let sums = convert_expert(&from, (inputs, outputs), update.as_ref(), &mut room)?;
            if packs {
                let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
                *packed.entry((spec.layer, &spec.name)).or_default() += sums;
            }
            Ok(())
        };
        work().with_context(|| format!("{}: expert {expert}", spec.name))
    }
}
