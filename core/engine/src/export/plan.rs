//! How a model's files become other files: for every tensor what is done with it, in pieces of bounded size.

use super::float;
use super::layout::Entry;
use super::pieces::Piece;
use anyhow::{Context, Result, bail, ensure};
use apus_model::adapter::{Adapter, ExpertBytes, ExpertRoom, Squares, convert_expert};
use apus_model::tensors::{FileForm, TensorList, TensorSpec};
use apus_model::weights::{Directory, WeightSource};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The bytes of a piece of a tensor that is no matrix of experts.
const PART: usize = 8 << 20;

/// In which form experts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are; those that an adapter touches in BF16.
    AsTheyAre,
    /// All in MXFP4.
    Packed,
    /// All in BF16.
    Dense,
}

/// A model whose files are written anew.
pub struct Plan<'a> {
    directory: &'a Directory,
    list: &'a TensorList,
    adapter: Option<&'a Adapter>,
    form: Form,
    /// The type of tensors that are no experts; `None` leaves it as it is.
    floats: Option<DType>,
    /// The tensors that are written.
    pub entries: Vec<Entry>,
    /// What is done.
    pub pieces: Vec<Piece<Job<'a>>>,
    /// What packing changed, by layer and name of the matrices.
    packed: Mutex<BTreeMap<(Option<usize>, &'a str), Squares>>,
}

/// What gives the bytes of a piece.
pub enum Job<'a> {
    /// The bytes of the base from this one on.
    Copy(&'a str, usize),
    /// Rows of a tensor, merged or converted.
    Rows(&'a str, Range<usize>, DType),
    /// A matrix of an expert.
    Expert(&'a TensorSpec, usize),
}

impl<'a> Plan<'a> {
    /// Plans what is done with every tensor of a directory.
    ///
    /// # Errors
    /// A tensor has another shape or type than it can be converted from; the error names it.
    pub fn new(
        (directory, list): (&'a Directory, &'a TensorList),
        adapter: Option<&'a Adapter>,
        form: Form,
        floats: Option<DType>,
    ) -> Result<Self> {
        let mut plan = Self {
            directory,
            list,
            adapter,
            form,
            floats,
            entries: Vec::new(),
            pieces: Vec::new(),
            packed: Mutex::default(),
        };
        for name in directory.names() {
            match list.of_file(name) {
                // They are written with the blocks.
                Some((spec, FileForm::Scales)) if plan.converts(spec) => {}
                Some((spec, _)) if plan.converts(spec) => plan.add_experts(spec)?,
                _ => plan.add(name)?,
            }
        }
        Ok(plan)
    }

    /// The modules of experts that are written in BF16, each once, and whether all are.
    pub fn dense(&self) -> (Vec<&'a str>, bool) {
        let (mut dense, mut packed) = (Vec::new(), false);
        for spec in self.list.iter().filter(|spec| spec.packed().is_some()) {
            match self.is_packed_in_result(spec) {
                true => packed = true,
                false if dense.last() != Some(&spec.module()) => dense.push(spec.module()),
                false => {}
            }
        }
        (dense, !packed)
    }

    /// Whether experts are written in another form.
    pub fn changes(&self) -> bool {
        let mut written = self.entries.iter().map(|entry| &entry.name);
        written.any(|name| !self.directory.contains(name))
    }

    /// What packing changed, by the names of matrices, in the order of the layers.
    pub fn packed(&self) -> Vec<(&'a str, Squares)> {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed
            .iter()
            .map(|((_, name), sums)| (*name, *sums))
            .collect()
    }

    fn touches(&self, name: &str) -> bool {
        self.adapter.is_some_and(|adapter| adapter.touches(name))
    }

    /// A module is in one form: where one of its matrices is touched, both are in BF16.
    fn is_packed_in_result(&self, spec: &TensorSpec) -> bool {
        match self.form {
            Form::Packed => true,
            Form::Dense => false,
            Form::AsTheyAre => {
                let of_module = self.list.iter().filter(|s| s.packed().is_some());
                let mut of_module = of_module.filter(|s| s.module() == spec.module());
                self.directory.is_packed(spec) && !of_module.any(|s| self.touches(&s.name))
            }
        }
    }

    /// Whether the matrices are merged, packed or unpacked.
    fn converts(&self, spec: &TensorSpec) -> bool {
        spec.packed().is_some()
            && (self.touches(&spec.name)
                || self.is_packed_in_result(spec) != self.directory.is_packed(spec))
    }

    fn add_experts(&mut self, spec: &'a TensorSpec) -> Result<()> {
        let (experts, inputs, outputs) = self.experts(spec)?;
        let place = self.entries.len();
        let from = match self.directory.is_packed(spec) {
            true => inputs * outputs / 32 * 17,
            false => inputs * outputs * self.dense_type(spec)?.size_in_bytes(),
        };
        let mut sizes = Vec::new();
        if self.is_packed_in_result(spec) {
            ensure!(
                inputs.is_multiple_of(32),
                "{}: {inputs} inputs are no multiple of 32",
                spec.name
            );
            for tensor in spec.packed().into_iter().flatten() {
                sizes.push(tensor.shape.iter().skip(1).product::<usize>());
                self.entries.push(Entry {
                    name: tensor.name,
                    dtype: Dtype::U8,
                    shape: tensor.shape,
                });
            }
        } else {
            let dtype = self.dense_type(spec)?;
            sizes.push(inputs * outputs * dtype.size_in_bytes());
            self.entries.push(Entry {
                name: spec.name.clone(),
                dtype: stored_type(dtype),
                shape: spec.shape.clone(),
            });
        }
        for expert in 0..experts {
            let places = sizes.iter().enumerate();
            let places = places.map(|(i, size)| (place + i, expert * size..(expert + 1) * size));
            self.pieces.push(Piece {
                job: Job::Expert(spec, expert),
                places: places.collect(),
                besides: from,
            });
        }
        Ok(())
    }

    /// Experts, inputs and outputs, after a check of the tensors in the file.
    fn experts(&self, spec: &TensorSpec) -> Result<(usize, usize, usize)> {
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
    fn dense_type(&self, spec: &TensorSpec) -> Result<DType> {
        match self.directory.is_packed(spec) {
            true => Ok(DType::BF16),
            false => float(self.directory.stored(&spec.name)?),
        }
    }

    fn add(&mut self, name: &'a str) -> Result<()> {
        let stored = self.directory.stored(name)?;
        let rows = stored.shape().first().copied().unwrap_or(1);
        let to = match self.floats {
            Some(dtype) if stored.dtype() != Dtype::U8 => Some(dtype),
            _ => None,
        };
        let number = self.entries.len();
        self.entries.push(Entry {
            name: name.to_owned(),
            dtype: to.map_or(stored.dtype(), stored_type),
            shape: stored.shape().to_vec(),
        });
        let same = to.is_none_or(|to| stored_type(to) == stored.dtype());
        if same && !self.touches(name) {
            for at in (0..stored.size()).step_by(PART) {
                self.pieces.push(Piece {
                    job: Job::Copy(name, at),
                    places: vec![(number, at..stored.size().min(at + PART))],
                    besides: 0,
                });
            }
            return Ok(());
        }
        let (from, to) = (float(stored)?, to.map_or_else(|| float(stored), Ok)?);
        // Bytes of a row as it is written, and of everything that is made of it on the way: its values in f32, three times.
        let row = self.entries[number].bytes() / rows.max(1);
        let besides = row / to.size_in_bytes() * (from.size_in_bytes() + 3 * 4);
        let step = (PART / row.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let rows = first..rows.min(first + step);
            self.pieces.push(Piece {
                places: vec![(number, rows.start * row..rows.end * row)],
                besides: besides * rows.len(),
                job: Job::Rows(name, rows, to),
            });
        }
        Ok(())
    }

    /// Gives the bytes of a piece.
    ///
    /// # Errors
    /// A file cannot be read, or an adapter does not fit.
    pub fn fill(&self, job: &Job<'a>, buffer: &mut Vec<u8>, to: &mut [&mut [u8]]) -> Result<()> {
        match (job, to) {
            (Job::Copy(name, at), [to]) => self.directory.stored(name)?.read(*at, to),
            (Job::Rows(name, rows, dtype), [to]) => self.rows(name, rows, *dtype, to),
            (Job::Expert(spec, expert), to) => self.expert(spec, *expert, buffer, to),
            _ => bail!("a part of a tensor has one place"),
        }
    }

    fn rows(&self, name: &str, rows: &Range<usize>, dtype: DType, to: &mut [u8]) -> Result<()> {
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

    fn expert(
        &self,
        spec: &'a TensorSpec,
        expert: usize,
        buffer: &mut Vec<u8>,
        to: &mut [&mut [u8]],
    ) -> Result<()> {
        let (experts, inputs, outputs) = self.experts(spec)?;
        let mut work = || -> Result<()> {
            let update = match self.adapter {
                Some(adapter) if adapter.saved(&spec.name).is_none() => {
                    adapter.expert_update(&spec.name, (expert, [experts, inputs, outputs]))?
                }
                _ => None,
            };
            let packed = spec.packed().filter(|_| self.directory.is_packed(spec));
            let saved = self.adapter.and_then(|adapter| adapter.saved(&spec.name));
            // An expert that was not trained stays packed to the bit. Elsewhere zeros are added as anything else is: they make -0 to 0.
            let update = match (update, &packed, to.len()) {
                (Some(update), Some(_), 2) if update.is_zero() => None,
                (update, ..) => update,
            };
            let dtype = self.dense_type(spec)?;
            // Nothing is read where everything is stored beside the adapter.
            let from = match (saved, &packed) {
                (Some(saved), _) => {
                    ensure!(
                        saved.dims() == spec.shape,
                        "the adapter's tensor has shape {:?}, the base's {:?}",
                        saved.dims(),
                        spec.shape
                    );
                    buffer.resize(inputs * outputs * dtype.size_in_bytes(), 0);
                    super::put(&saved.get(expert)?, dtype, buffer)?;
                    ExpertBytes::Dense(buffer, dtype)
                }
                (None, Some([blocks, scales])) => {
                    let blocks = self.directory.stored(&blocks.name)?;
                    let scales = self.directory.stored(&scales.name)?;
                    let (b, s) = (blocks.size() / experts, scales.size() / experts);
                    if let ([to_blocks, to_scales], None) = (&mut *to, &update) {
                        blocks.read(expert * b, to_blocks)?;
                        return scales.read(expert * s, to_scales);
                    }
                    buffer.resize(b + s, 0);
                    let (b, s) = buffer.split_at_mut(b);
                    blocks.read(expert * b.len(), b)?;
                    scales.read(expert * s.len(), s)?;
                    ExpertBytes::Packed(b, s)
                }
                (None, None) => {
                    let stored = self.directory.stored(&spec.name)?;
                    buffer.resize(stored.size() / experts, 0);
                    stored.read(expert * buffer.len(), buffer)?;
                    ExpertBytes::Dense(buffer, dtype)
                }
            };
            let mut room = match to {
                [dense] => ExpertRoom::Dense(dense, dtype),
                [blocks, scales] => ExpertRoom::Packed(blocks, scales),
                _ => bail!("a matrix has one place, or two if it is packed"),
            };
            let packs = matches!(room, ExpertRoom::Packed(..));
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

/// The type of a tensor in a file.
fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        _ => Dtype::BF16,
    }
}
