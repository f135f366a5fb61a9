//! Lays out the tensors of a unit and reads this rank's part of them.

use super::{Sharded, Sharding, Unit};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The first element of a tensor, or of several that are used as one, is a multiple of this: kernels read 16 bytes at once.
const ALIGNMENT: usize = 256;

/// Reads a range of a tensor's elements in the order in which they lie in memory, to a tensor `[n]` on the device.
pub type Read<'a> = Box<dyn Fn(Range<usize>) -> Result<Tensor> + 'a>;

/// A unit whose tensors are being listed.
pub struct UnitBuilder<'a> {
    rank: usize,
    ranks: usize,
    unit: Arc<Unit>,
    flats: Vec<Flat<'a>>,
}

struct Flat<'a> {
    dtype: DType,
    end: usize,
    entries: Vec<(usize, usize, Read<'a>)>,
}

impl<'a> UnitBuilder<'a> {
    /// For a unit of this name.
    pub fn new(name: String, sharding: &Sharding) -> Self {
        Self {
            rank: sharding.rank,
            ranks: sharding.ranks,
            unit: Arc::new(Unit::new(name)),
            flats: Vec::new(),
        }
    }

    /// Begins a tensor, or several that are used as one, at an address that kernels can take.
    pub fn align(&mut self) {
        for flat in &mut self.flats {
            flat.end = flat.end.next_multiple_of(ALIGNMENT);
        }
    }

    /// Adds a tensor behind those of the same type.
    pub fn add(&mut self, name: &str, dtype: DType, dims: &[usize], read: Read<'a>) -> Sharded {
        let at = self.flats.iter().position(|flat| flat.dtype == dtype);
        let at = at.unwrap_or_else(|| {
            self.flats.push(Flat {
                dtype,
                end: 0,
                entries: Vec::new(),
            });
            self.flats.len() - 1
        });
        let flat = &mut self.flats[at];
        let (start, count) = (flat.end, dims.iter().product());
        flat.entries.push((start, count, read));
        flat.end += count;
        Sharded::new(&self.unit, name, (at, dtype), start, dims, self.ranks)
    }

    /// Reads what this rank keeps: of each tensor the elements that fall into its part, and no others.
    ///
    /// # Errors
    /// What reading meets.
    pub fn finish(self, device: &Device) -> Result<Arc<Unit>> {
        let (rank, ranks) = (self.rank, self.ranks);
        let mut parts = Vec::new();
        for flat in self.flats {
            let length = flat.end.div_ceil(ranks).next_multiple_of(ALIGNMENT);
            let own = rank * length..(rank + 1) * length;
            let part = Tensor::zeros(length, flat.dtype, device)?;
            for (start, count, read) in flat.entries {
                let from = own.start.clamp(start, start + count);
                let to = own.end.clamp(from, start + count);
                // Also of a tensor that lies elsewhere, so that it is known to be there.
                let piece = read(from - start..to - start)?;
                ensure!(
                    piece.dims() == [to - from] && piece.dtype() == flat.dtype,
                    "{}: read {:?} {:?}, expected {} elements {:?}",
                    self.unit.name(),
                    piece.dtype(),
                    piece.dims(),
                    to - from,
                    flat.dtype
                );
                if from < to {
                    part.slice_set(&piece, 0, from - own.start)?;
                }
            }
            parts.push(part);
        }
        self.unit.load(parts)?;
        Ok(self.unit)
    }
}
