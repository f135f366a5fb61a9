//! Which tensors a file has, and in which pieces they are written.

use super::blocks;
use super::header::{Kind, Tensor};
use super::names;
use crate::export::float;
use crate::export::pieces::{self, Piece};
use crate::export::source::Source;
use anyhow::{Result, bail, ensure};
use apus_components::config::GgufType;
use apus_model::adapter::ExpertRoom;
use apus_model::tensors::{ExpertMatrix, Part, Role, TensorSpec};
use apus_model::weights::WeightSource;
use candle_core::DType;
use std::ops::Range;

/// The tensors of a file.
pub struct Plan<'a> {
    source: &'a Source<'a>,
    /// What most matrices are.
    matrices: Kind,
    /// What the matrices of experts are; `None` leaves those packed that are and that nothing is merged into.
    experts: Option<Kind>,
    /// The tensors, in the order in which a token meets them.
    pub tensors: Vec<Tensor>,
    /// What is done.
    pub pieces: Vec<Piece<Job<'a>>>,
}

/// What gives the bytes of a piece.
pub enum Job<'a> {
    /// Rows of a tensor.
    Rows(&'a TensorSpec, Range<usize>, DType),
    /// The biases of gate and up, which belong to them in turn.
    Biases(&'a TensorSpec),
    /// A matrix of an expert.
    Expert(&'a TensorSpec, usize),
}

impl<'a> Plan<'a> {
    /// Plans the tensors of a file.
    ///
    /// # Errors
    /// A tensor is missing, has another shape or type than config.json says, or none that a file could hold; the error names it.
    pub fn new(source: &'a Source<'a>, outtype: GgufType) -> Result<Self> {
        let (matrices, experts) = match outtype {
            GgufType::Auto => (Kind::Bf16, None),
            GgufType::F32 => (Kind::F32, Some(Kind::F32)),
            GgufType::Bf16 => (Kind::Bf16, Some(Kind::Bf16)),
            GgufType::Mxfp4 => (Kind::Bf16, Some(Kind::Mxfp4)),
        };
        let mut plan = Self {
            source,
            matrices,
            experts,
            tensors: Vec::new(),
            pieces: Vec::new(),
        };
        for spec in source.list.in_order_of_use() {
            match (spec.role, spec.part) {
                (Role::Experts(_), Part::Weight) => plan.add_experts(spec)?,
                (Role::Experts(ExpertMatrix::GateUp), Part::Bias) => plan.add_biases(spec)?,
                _ => plan.add(spec)?,
            }
        }
        Ok(plan)
    }

    /// What most of the file is: experts that are packed, or other matrices.
    pub fn most(&self) -> Kind {
        let packed = self.tensors.iter().any(|tensor| tensor.kind == Kind::Mxfp4);
        if packed { Kind::Mxfp4 } else { self.matrices }
    }

    /// What a matrix of experts is.
    fn kind(&self, spec: &TensorSpec) -> Kind {
        let as_it_is = self.source.directory.is_packed(spec) && !self.source.touches(&spec.name);
        match self.experts {
            Some(kind) => kind,
            None if as_it_is => Kind::Mxfp4,
            None => Kind::Bf16,
        }
    }

    fn add(&mut self, spec: &'a TensorSpec) -> Result<()> {
        let from = self.check(spec)?;
        let kind = names::kind(spec, self.matrices);
        let (rows, number) = (spec.shape[0], self.tensors.len());
        for name in names::names(spec)? {
            self.tensors.push(Tensor {
                name,
                kind,
                shape: spec.shape.clone(),
            });
        }
        let (values, to) = (spec.elements() / rows, dtype(kind));
        // Bytes of a row as it is written, and of everything that is made of it on the way: its values in f32, three times.
        let row = values * to.size_in_bytes();
        let besides = values * (from.size_in_bytes() + 3 * 4);
        let job = |rows| Job::Rows(spec, rows, to);
        self.pieces
            .extend(pieces::by_rows(number, (rows, row, besides), job));
        Ok(())
    }

    fn add_biases(&mut self, spec: &'a TensorSpec) -> Result<()> {
        self.check(spec)?;
        let &[experts, outputs] = spec.shape.as_slice() else {
            bail!(
                "{}: shape {:?}, expected experts and outputs",
                spec.name,
                spec.shape
            )
        };
        let (number, size) = (self.tensors.len(), experts * outputs / 2 * 4);
        for name in names::names(spec)? {
            self.tensors.push(Tensor {
                name,
                kind: Kind::F32,
                shape: vec![experts, outputs / 2],
            });
        }
        self.pieces.push(Piece {
            job: Job::Biases(spec),
            places: vec![(number, 0..size), (number + 1, 0..size)],
            besides: size * 8,
        });
        Ok(())
    }

    fn add_experts(&mut self, spec: &'a TensorSpec) -> Result<()> {
        let (experts, inputs, outputs) = self.source.experts(spec)?;
        let (names, number) = (names::names(spec)?, self.tensors.len());
        ensure!(
            outputs.is_multiple_of(names.len()),
            "{}: {outputs} outputs are no pairs",
            spec.name
        );
        let (own, kind) = (outputs / names.len(), self.kind(spec));
        let row = match kind {
            Kind::Mxfp4 => {
                ensure!(
                    inputs.is_multiple_of(32),
                    "{}: {inputs} inputs are no multiple of 32; give --outtype bf16",
                    spec.name
                );
                inputs / 32 * blocks::BYTES
            }
            kind => inputs * dtype(kind).size_in_bytes(),
        };
        let from = match self.source.directory.is_packed(spec) {
            true => inputs * outputs / 32 * 17,
            false => inputs * outputs * self.source.dense_type(spec)?.size_in_bytes(),
        };
        for expert in 0..experts {
            let bytes = expert * own * row..(expert + 1) * own * row;
            self.pieces.push(Piece {
                job: Job::Expert(spec, expert),
                places: (0..names.len())
                    .map(|i| (number + i, bytes.clone()))
                    .collect(),
                besides: from + outputs * row,
            });
        }
        self.tensors.extend(names.into_iter().map(|name| Tensor {
            name,
            kind,
            shape: vec![experts, own, inputs],
        }));
        Ok(())
    }

    /// The type of a tensor in its file, after a check of its shape.
    fn check(&self, spec: &TensorSpec) -> Result<DType> {
        let stored = self.source.directory.stored(&spec.name)?;
        ensure!(
            stored.shape() == spec.shape && spec.elements() > 0,
            "{}: found shape {:?}, expected {:?} by config.json",
            stored.location(),
            stored.shape(),
            spec.shape
        );
        float(stored)
    }

    /// Gives the bytes of a piece.
    ///
    /// # Errors
    /// A file cannot be read, or the adapter does not fit.
    pub fn fill(&self, job: &Job<'a>, buffer: &mut Vec<u8>, to: &mut [&mut [u8]]) -> Result<()> {
        match (job, to) {
            (Job::Rows(spec, rows, dtype), [to]) => self.source.rows(&spec.name, rows, *dtype, to),
            (Job::Biases(spec), to) => {
                let mut biases = vec![0; spec.elements() * 4];
                let all = 0..spec.shape[0];
                self.source
                    .rows(&spec.name, &all, DType::F32, &mut biases)?;
                deal(&biases, 4, to);
                Ok(())
            }
            (Job::Expert(spec, expert), to) => self.expert(spec, *expert, buffer, to),
            _ => bail!("rows of a tensor have one place"),
        }
    }

    fn expert(
        &self,
        spec: &'a TensorSpec,
        expert: usize,
        buffer: &mut Vec<u8>,
        to: &mut [&mut [u8]],
    ) -> Result<()> {
        let (_, inputs, outputs) = self.source.experts(spec)?;
        let mut rows = vec![0; to.iter().map(|to| to.len()).sum()];
        let kind = self.kind(spec);
        if kind == Kind::Mxfp4 {
            let groups = inputs / 32 * outputs;
            let (mut values, mut scales) = (vec![0; groups * 16], vec![0; groups]);
            let room = ExpertRoom::Packed(&mut values, &mut scales);
            self.source.expert(spec, expert, buffer, room)?;
            blocks::lay_out(&mut rows, &values, &scales);
        } else {
            let room = ExpertRoom::Rows(&mut rows, dtype(kind));
            self.source.expert(spec, expert, buffer, room)?;
        }
        deal(&rows, rows.len() / outputs, to);
        Ok(())
    }
}

/// Deals out rows of this many bytes in turn.
fn deal(rows: &[u8], row: usize, to: &mut [&mut [u8]]) {
    let places = to.len();
    for (i, bytes) in rows.chunks_exact(row).enumerate() {
        to[i % places][i / places * row..][..row].copy_from_slice(bytes);
    }
}

/// The type of values that are not packed.
fn dtype(kind: Kind) -> DType {
    match kind {
        Kind::F32 => DType::F32,
        Kind::Bf16 | Kind::Mxfp4 => DType::BF16,
    }
}
