//! The tensors of a layer, or of the output head, of which a rank keeps a part; and one of these tensors.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Flat tensors, one for each type of elements, of which this rank keeps a part.
#[derive(Debug)]
pub struct Unit {
    name: String,
    /// What this rank keeps of each flat tensor; set when it is loaded.
    parts: OnceLock<Vec<Tensor>>,
    /// The flat tensors, while they are gathered.
    whole: Mutex<Option<Vec<Tensor>>>,
}

impl Unit {
    /// A unit that is not loaded yet: `layer 3`.
    pub fn new(name: String) -> Self {
        Self {
            name,
            parts: OnceLock::new(),
            whole: Mutex::new(None),
        }
    }

    /// What it is of, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What this rank keeps.
    pub fn parts(&self) -> &[Tensor] {
        self.parts.get().map_or(&[], Vec::as_slice)
    }

    /// Gives it what this rank keeps, once.
    ///
    /// # Errors
    /// It has been loaded already.
    pub fn load(&self, parts: Vec<Tensor>) -> Result<()> {
        match self.parts.set(parts) {
            Ok(()) => Ok(()),
            Err(_) => bail!("{} is loaded a second time", self.name),
        }
    }

    /// Makes it whole.
    pub fn set(&self, whole: Vec<Tensor>) {
        *self.slot() = Some(whole);
    }

    /// Frees what was gathered.
    pub fn free(&self) {
        *self.slot() = None;
    }

    /// Whether it is whole.
    pub fn is_whole(&self) -> bool {
        self.slot().is_some()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Vec<Tensor>>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor of a unit.
#[derive(Debug, Clone)]
pub struct Sharded {
    unit: Arc<Unit>,
    /// Its name, of one that is fused of several that of the first.
    name: String,
    /// Which of the unit's flat tensors it lies in.
    flat: usize,
    dtype: DType,
    /// Its first element there.
    start: usize,
    /// Its shape as it is read.
    dims: Vec<usize>,
    /// Whether its last two sides are swapped in memory.
    turned: bool,
    ranks: usize,
}

impl Sharded {
    /// A tensor of this shape that starts at an element of a flat tensor of the unit.
    pub(super) fn new(
        unit: &Arc<Unit>,
        name: &str,
        (flat, dtype): (usize, DType),
        start: usize,
        dims: &[usize],
        ranks: usize,
    ) -> Self {
        Self {
            unit: Arc::clone(unit),
            name: name.to_owned(),
            flat,
            dtype,
            start,
            dims: dims.to_vec(),
            turned: false,
            ranks,
        }
    }

    /// The same memory read with its last two sides swapped.
    ///
    /// # Errors
    /// It has fewer than two sides.
    pub fn transposed(mut self) -> Result<Self> {
        let count = self.dims.len();
        ensure!(count >= 2, "{} has no two sides to swap", self.name);
        self.dims.swap(count - 2, count - 1);
        self.turned = !self.turned;
        Ok(self)
    }

    /// Matrices that lie one below the other as one.
    ///
    /// # Errors
    /// They do not lie so.
    pub fn joined(matrices: &[&Self]) -> Result<Self> {
        let Some((first, others)) = matrices.split_first() else {
            bail!("no matrices to join")
        };
        let mut all = (*first).clone();
        for next in others {
            let adjacent = Arc::ptr_eq(&all.unit, &next.unit)
                && all.flat == next.flat
                && all.start + all.count() == next.start
                && !all.turned
                && !next.turned
                && all.dims[1..] == next.dims[1..];
            ensure!(adjacent, "{} does not lie behind {}", next.name, all.name);
            all.dims[0] += next.dims[0];
        }
        Ok(all)
    }

    /// The tensor.
    ///
    /// # Errors
    /// Its unit is not whole.
    pub fn get(&self) -> Result<Tensor> {
        let whole = self.unit.slot();
        let flats = whole.as_ref().with_context(|| {
            format!(
                "{} is asked for while {} is not gathered: layers can be read in the order of a pass",
                self.name, self.unit.name
            )
        })?;
        let flat = flats
            .get(self.flat)
            .with_context(|| format!("{} is not loaded", self.unit.name))?;
        let mut stored = self.dims.clone();
        if self.turned {
            let count = stored.len();
            stored.swap(count - 2, count - 1);
        }
        let tensor = flat.narrow(0, self.start, self.count())?.reshape(stored)?;
        match self.turned {
            true => Ok(tensor.transpose(self.dims.len() - 2, self.dims.len() - 1)?),
            false => Ok(tensor),
        }
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether its last two sides are swapped in memory.
    pub fn is_turned(&self) -> bool {
        self.turned
    }

    /// The bytes that a rank keeps of it, on an average.
    pub fn bytes(&self) -> u64 {
        ((self.count() * self.dtype.size_in_bytes()).div_ceil(self.ranks)) as u64
    }

    fn count(&self) -> usize {
        self.dims.iter().product()
    }
}
