//! How the kernels for the rows of a few tokens are launched (`rows.cuh`): which version for how many rows, and into how many parts the
//! sum over the inputs is cut.
//!
//! The parts follow from the shape of the matrix alone, and every version adds them in the same order, so a row has the same bits in
//! every version and among any other rows.

use crate::Grid;

/// Warps of a block.
const WARPS: usize = 8;
/// Warps of a block that takes many rows, which share the chunks of x.
const MANY_WARPS: usize = 16;
/// Outputs of a matrix that a warp takes.
const TILE: usize = 16;
/// The most bytes of x in shared memory, which cards from compute capability 8.0 on have for a block.
const MOST_SHARED: usize = 96 * 1024;

/// The rows of one expert that a block of the experts' kernels takes, by the number of tokens in a step: the fastest measured.
pub const fn rows_a_group(tokens: usize) -> usize {
    match tokens {
        0 | 1 => 1,
        2..=48 => 8,
        _ => 48,
    }
}

/// The most groups that [`crate::rows_route`] can make: the length of `groups`.
pub const fn most_groups(tokens: usize, choices: usize, experts: usize) -> usize {
    let pairs = tokens * choices;
    let most = experts + pairs / rows_a_group(tokens);
    if pairs < most { pairs } else { most }
}

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// MXFP4 blocks and scales.
    Packed,
    /// bf16.
    Dense,
}

/// How the outputs and the inputs of a matrix are spread over blocks and warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsLayout {
    /// Which of the kernels: the rows that a block takes.
    pub version: usize,
    /// Parts of the sum.
    pub parts: usize,
    /// Warps that share a tile.
    pub split: usize,
    /// Units of x that are in shared memory for each of them.
    pub chunk: usize,
    warps: usize,
    blocks: usize,
    shared: u32,
}

impl RowsLayout {
    /// The layout of the first matrix of experts (`gated`) or of the second.
    pub fn experts(
        tokens: usize,
        [inputs, outputs]: [usize; 2],
        storage: Storage,
        gated: bool,
    ) -> Self {
        let version = rows_a_group(tokens);
        let (unit, ahead) = match (storage, version) {
            (Storage::Packed, _) => (Unit::PACKED, 2),
            (Storage::Dense, _) => (Unit::DENSE, 4),
        };
        let parts = if gated { 2 } else { 4 };
        // More warps share the work of few tokens; with more tokens there are enough.
        let split = if tokens <= 4 { parts } else { 1 };
        Self::new(version, [inputs, outputs], unit, ahead, [parts, split])
    }

    /// The layout of a matrix that all rows are multiplied by.
    pub fn product(rows: usize, [inputs, outputs]: [usize; 2]) -> Self {
        // A router's matrix is so small that it does not matter how often it is read.
        let small = outputs < 512;
        let (version, ahead) = match rows {
            0 | 1 => (1, 8),
            9.. if !small => (64, 2),
            _ => (8, 8),
        };
        let parts = match outputs {
            _ if small => 8,
            512..32768 => 4,
            _ => 1,
        };
        Self::new(
            version,
            [inputs, outputs],
            Unit::DENSE,
            ahead,
            [parts, parts],
        )
    }

    /// `ahead` units are read ahead, so a chunk that is not all is a multiple of it.
    fn new(
        version: usize,
        [inputs, outputs]: [usize; 2],
        unit: Unit,
        ahead: usize,
        [parts, split]: [usize; 2],
    ) -> Self {
        let bytes = split * unit.eights * version * 64;
        let whole = inputs.div_ceil(unit.inputs).div_ceil(split);
        // What does not fit at once comes in chunks, of which one is read while the other is used.
        let (chunk, chunks) = match bytes * whole <= MOST_SHARED {
            true => (whole, 1),
            false => (MOST_SHARED / 2 / bytes / ahead * ahead, 2),
        };
        let warps = if version == 48 { MANY_WARPS } else { WARPS };
        let sums = match split {
            1 => 0,
            _ => warps * version.div_ceil(8) * 512,
        };
        Self {
            version,
            parts,
            split,
            chunk,
            warps,
            blocks: outputs.div_ceil(TILE * (warps / split)),
            shared: (bytes * chunk * chunks).max(sums) as u32,
        }
    }

    /// The grid for this many groups of rows.
    pub fn grid(self, groups: usize) -> Grid {
        Grid::new([self.blocks, groups, 1], 32 * self.warps as u32).with_shared(self.shared)
    }

    /// The grid for rows of a product.
    pub fn grid_of_rows(self, rows: usize) -> Grid {
        self.grid(rows.div_ceil(self.version))
    }
}

/// What a lane of four reads at a time.
#[derive(Clone, Copy)]
struct Unit {
    inputs: usize,
    /// Eights of inputs for each lane.
    eights: usize,
}

impl Unit {
    const PACKED: Self = Self {
        inputs: 128,
        eights: 4,
    };
    const DENSE: Self = Self {
        inputs: 32,
        eights: 1,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{In, Out, rows_gate_up, rows_product};

    #[test]
    fn parts_depend_on_the_matrix_alone() {
        for (storage, gated) in [
            (Storage::Packed, true),
            (Storage::Packed, false),
            (Storage::Dense, true),
        ] {
            let parts = |tokens| RowsLayout::experts(tokens, [2880, 5760], storage, gated).parts;
            assert!((1..300).all(|tokens| parts(tokens) == parts(1)));
        }
        for outputs in [32, 2880, 201_088] {
            let parts = |rows| RowsLayout::product(rows, [2880, outputs]).parts;
            assert!((1..300).all(|rows| parts(rows) == parts(1)));
        }
    }

    #[test]
    fn what_fits_is_in_shared_memory() {
        for rows in [1, 2, 8, 9, 48, 49, 256] {
            for inputs in [32, 64, 2880, 4096, 12288] {
                let shape = [inputs, 2880];
                let packed = RowsLayout::experts(rows, shape, Storage::Packed, true);
                let dense = RowsLayout::experts(rows, shape, Storage::Dense, false);
                for (layout, unit) in [
                    (packed, 128),
                    (dense, 32),
                    (RowsLayout::product(rows, shape), 32),
                ] {
                    let grid = layout.grid(1);
                    assert!(grid.shared as usize <= MOST_SHARED, "{layout:?}");
                    assert!(layout.chunk > 0 && layout.warps.is_multiple_of(layout.split));
                    assert!(layout.chunk <= inputs.div_ceil(unit));
                }
            }
        }
    }

    #[test]
    fn every_group_has_a_place() {
        assert_eq!(most_groups(1, 4, 32), 4);
        assert_eq!(most_groups(256, 4, 32), 32 + 21);
        // As many groups as rows allow: every expert one row, the rest of the rows in whole groups.
        for tokens in 1..400 {
            let (pairs, size) = (4 * tokens, rows_a_group(tokens));
            let filled = pairs.min(32);
            let most = filled + (pairs - filled) / size;
            assert!(most_groups(tokens, 4, 32) >= most, "{tokens} tokens");
        }
    }

    #[test]
    fn launchers_take_the_layout() {
        let (out, x) = (Out::at(0, &()), In::at(0, &()));
        let layout = RowsLayout::product(3, [2880, 5120]);
        let product = rows_product {
            y: out,
            x,
            w: x,
            bias: None,
            residual: None,
            rows: 3,
            inputs: 2880,
            outputs: 5120,
            parts: layout.parts,
            split: layout.split,
            chunk: layout.chunk,
            layout,
            version: layout.version,
        };
        assert_eq!(product.target().unwrap().1, "rows_product_8");
        assert_eq!(product.grid().blocks, [160, 1, 1]);
        let layout = RowsLayout::experts(1, [2880, 5760], Storage::Packed, true);
        let gate_up = rows_gate_up {
            h: out,
            x,
            blocks: In::at(0, &()),
            scales: In::at(0, &()),
            bias: None,
            low: None,
            groups: In::at(0, &()),
            slots: In::at(0, &()),
            inputs: 2880,
            outputs: 5760,
            k: 4,
            limit: 7.0,
            parts: layout.parts,
            split: layout.split,
            chunk: layout.chunk,
            layout,
            count: 4,
            version: layout.version,
        };
        assert_eq!(gate_up.target().unwrap().1, "rows_gate_up_1");
        assert_eq!(gate_up.grid().blocks, [90, 4, 1]);
    }
}
