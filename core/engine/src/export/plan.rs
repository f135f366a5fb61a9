//! How a model's files become other files: for every tensor what is done with it, in pieces of bounded size.

use super::float;
use super::layout::Entry;
use super::pieces::{self, PART, Piece};
use super::source::Source;
use anyhow::{Result, bail, ensure};
use apus_model::adapter::{Adapter, ExpertRoom};
use apus_model::tensors::{FileForm, TensorList, TensorSpec};
use apus_model::weights::{Directory, WeightSource};
use candle_core::DType;
use safetensors::Dtype;
use std::ops::Range;

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
    /// What is written.
    pub source: Source<'a>,
    form: Form,
    /// The type of tensors that are no experts; `None` leaves it as it is.
    floats: Option<DType>,
    /// The tensors that are written.
    pub entries: Vec<Entry>,
    /// What is done.
    pub pieces: Vec<Piece<Job<'a>>>,
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
            source: Source::new(directory, list, adapter),
            form,
            floats,
            entries: Vec::new(),
            pieces: Vec::new(),
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
        for spec in self
            .source
            .list
            .iter()
            .filter(|spec| spec.packed().is_some())
        {
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
        written.any(|name| !self.source.directory.contains(name))
    }

    /// A module is in one form: where one of its matrices is touched, both are in BF16.
    fn is_packed_in_result(&self, spec: &TensorSpec) -> bool {
        match self.form {
            Form::Packed => true,
            Form::Dense => false,
            Form::AsTheyAre => {
                let of_module = self.source.list.iter().filter(|s| s.packed().is_some());
                let mut of_module = of_module.filter(|s| s.module() == spec.module());
                self.source.directory.is_packed(spec)
                    && !of_module.any(|s| self.source.touches(&s.name))
            }
        }
    }

    /// Whether the matrices are merged, packed or unpacked.
    fn converts(&self, spec: &TensorSpec) -> bool {
        spec.packed().is_some()
            && (self.source.touches(&spec.name)
                || self.is_packed_in_result(spec) != self.source.directory.is_packed(spec))
    }

    fn add_experts(&mut self, spec: &'a TensorSpec) -> Result<()> {
        let (experts, inputs, outputs) = self.source.experts(spec)?;
        let place = self.entries.len();
        let from = match self.source.directory.is_packed(spec) {
            true => inputs * outputs / 32 * 17,
            false => inputs * outputs * self.source.dense_type(spec)?.size_in_bytes(),
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
            let dtype = self.source.dense_type(spec)?;
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

    fn add(&mut self, name: &'a str) -> Result<()> {
        let stored = self.source.directory.stored(name)?;
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
        if same && !self.source.touches(name) {
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
        let job = |rows| Job::Rows(name, rows, to);
        self.pieces
            .extend(pieces::by_rows(number, (rows, row, besides), job));
        Ok(())
    }

    /// Gives the bytes of a piece.
    ///
    /// # Errors
    /// A file cannot be read, or an adapter does not fit.
    pub fn fill(&self, job: &Job<'a>, buffer: &mut Vec<u8>, to: &mut [&mut [u8]]) -> Result<()> {
        match (job, to) {
            (Job::Copy(name, at), [to]) => self.source.directory.stored(name)?.read(*at, to),
            (Job::Rows(name, rows, dtype), [to]) => self.source.rows(name, rows, *dtype, to),
            (Job::Expert(spec, expert), [to]) => {
                let room = ExpertRoom::Dense(to, self.source.dense_type(spec)?);
                self.source.expert(spec, *expert, buffer, room)
            }
            (Job::Expert(spec, expert), [blocks, scales]) => {
                let room = ExpertRoom::Packed(blocks, scales);
                self.source.expert(spec, *expert, buffer, room)
            }
            _ => bail!("a part has one place, or two if it is a packed matrix"),
        }
    }
}

/// The type of a tensor in a file.
fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        _ => Dtype::BF16,
    }
}
