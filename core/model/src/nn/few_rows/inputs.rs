//! The numbers that change from step to step, at addresses that do not: one upload brings them all, and a recorded step reads
//! them where it always does.

use crate::ops::copy;
use crate::ops::lora::NO_UPDATE;
use crate::ops::paged::HostLayout;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

/// How many rows a step is recorded for, and how many pages each of its tables has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Room {
    /// Rows, one token of a sequence each.
    pub rows: usize,
    /// Pages in the table of a sequence.
    pub pages: usize,
}

/// Numbers of rows that steps are recorded for; what is between is filled with rows that nobody reads.
const ROWS: [usize; 14] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256];
/// The most rows of a step.
pub const MOST_ROWS: usize = ROWS[ROWS.len() - 1];
/// The least room of a table; it doubles from there.
const LEAST_PAGES: usize = 64;

impl Room {
    /// The least room for a step; `None` if it has too many rows.
    pub fn of(rows: usize, pages: usize) -> Option<Self> {
        let rows = ROWS.into_iter().find(|&room| room >= rows)?;
        let pages = pages.next_power_of_two().max(LEAST_PAGES);
        Some(Self { rows, pages })
    }

    /// The numbers that a step with layers of so many kinds uploads.
    fn numbers(&self, kinds: usize) -> usize {
        self.rows * (3 + kinds * (2 + self.pages))
    }
}

/// The slot of a row that puts no key into the pools.
const NO_SLOT: u32 = u32::MAX;

/// Where the numbers of a step are on the device.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// All of them.
    all: Tensor,
    /// The token of each row, `[R]` u32.
    pub ids: Tensor,
    /// The position of each row, `[R]` u32.
    pub positions: Tensor,
    /// The number of the adapter of each row, `[R]` u32.
    pub adapters: Tensor,
    /// Those that differ from kind to kind of layers.
    pub kinds: Vec<KindInputs>,
}

/// Where the rows of a step have their keys, for layers of one kind.
#[derive(Debug, Clone)]
pub struct KindInputs {
    /// The row of the pools to which a key and a value go, `[R]` u32.
    pub slots: Tensor,
    /// The number of keys of each sequence, `[R]` u32; 0 for a row that nobody reads.
    pub lengths: Tensor,
    /// The pages of each sequence, `[R, P]` u32.
    pub pages: Tensor,
}

/// The memory of the inputs of any step.
#[derive(Debug)]
pub struct InputMemory {
    numbers: Tensor,
    kinds: usize,
}

impl InputMemory {
    /// Memory for steps up to this room.
    pub fn new(most: Room, kinds: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            numbers: Tensor::zeros(most.numbers(kinds), DType::U32, device)?,
            kinds,
        })
    }

    /// Whether a step of this room has place.
    pub fn has(&self, room: Room) -> bool {
        room.numbers(self.kinds) <= self.numbers.elem_count()
    }

    /// The places of the inputs of a step of this room.
    ///
    /// # Errors
    /// There is no memory for so many.
    pub fn inputs(&self, room: Room) -> Result<Inputs> {
        let all = self.numbers.narrow(0, 0, room.numbers(self.kinds))?;
        let mut at = 0;
        let mut next = |count: usize| {
            at += count;
            all.narrow(0, at - count, count)
        };
        let [ids, positions, adapters] = [next(room.rows)?, next(room.rows)?, next(room.rows)?];
        let mut kinds = Vec::with_capacity(self.kinds);
        for _ in 0..self.kinds {
            kinds.push(KindInputs {
                slots: next(room.rows)?,
                lengths: next(room.rows)?,
                pages: next(room.rows * room.pages)?.reshape((room.rows, room.pages))?,
            });
        }
        Ok(Inputs {
            ids,
            positions,
            adapters,
            kinds,
            all,
        })
    }
}

impl Inputs {
    /// Fills them: a row for each sequence, and up to the room rows that have no keys and put none into the pools.
    ///
    /// # Errors
    /// A sequence has more than one token, or the layouts do not fit the room.
    pub fn upload(&self, ids: &[u32], layouts: &[HostLayout], adapters: &[u32]) -> Result<()> {
        let (rows, room) = (ids.len(), self.ids.elem_count());
        ensure!(
            rows <= room
                && adapters.len() == rows
                && layouts.len() == self.kinds.len()
                && layouts
                    .iter()
                    .all(|layout| layout.lengths.len() == rows && layout.positions.len() == rows),
            "a step of {rows} rows with layouts of {} kinds for {room} rows and {} kinds",
            layouts.len(),
            self.kinds.len()
        );
        let mut numbers = Vec::with_capacity(self.all.elem_count());
        let positions = layouts.first().map_or(&[][..], |layout| &layout.positions);
        fill(&mut numbers, ids, room, 0);
        fill(&mut numbers, positions, room, 0);
        fill(&mut numbers, adapters, room, NO_UPDATE);
        for (layout, kind) in layouts.iter().zip(&self.kinds) {
            fill(&mut numbers, &layout.slots, room, NO_SLOT);
            fill(&mut numbers, &layout.lengths, room, 0);
            let (width, pages) = (layout.width(), kind.pages.dim(1)?);
            ensure!(
                width <= pages,
                "tables of {width} pages in the room of {pages}"
            );
            for table in layout.pages.chunks(width.max(1)) {
                fill(&mut numbers, table, pages, 0);
            }
            numbers.resize(numbers.len() + (room - rows) * pages, 0);
        }
        copy::from_host(&self.all, &numbers)
    }
}

/// Adds values, and `rest` in place of those that are missing to `room`.
fn fill(numbers: &mut Vec<u32>, values: &[u32], room: usize, rest: u32) {
    numbers.extend_from_slice(values);
    numbers.resize(numbers.len() + room - values.len(), rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_hold_their_steps() {
        for (rows, pages, expected) in [(1, 1, (1, 64)), (3, 65, (4, 128)), (256, 9, (256, 64))] {
            let room = Room::of(rows, pages).unwrap();
            assert_eq!((room.rows, room.pages), expected);
        }
        assert_eq!(Room::of(MOST_ROWS + 1, 1), None);
    }
}
