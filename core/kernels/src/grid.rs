//! Blocks and threads of a launch.

use crate::sizes::{ELEMENTS_PER_BLOCK, ROWS_PER_BLOCK};

/// The blocks, threads and dynamic shared memory of a launch. A grid without blocks launches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along the three axes.
    pub blocks: [usize; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Grid {
    /// Blocks along up to three axes.
    pub fn new(blocks: [usize; 3], threads: u32) -> Self {
        Self {
            blocks,
            threads,
            shared: 0,
        }
    }

    /// Blocks along one axis, `size` of something for each.
    pub fn each(count: usize, size: usize, threads: u32) -> Self {
        Self::new([count.div_ceil(size), 1, 1], threads)
    }

    /// The same grid with `bytes` of dynamic shared memory for each block.
    pub fn with_shared(self, bytes: u32) -> Self {
        Self {
            shared: bytes,
            ..self
        }
    }

    /// Element geometry: a thread takes two groups of four elements (`element4` of `common.cuh`).
    pub fn elements(count: usize) -> Self {
        Self::each(count, ELEMENTS_PER_BLOCK, 256)
    }

    /// Row geometry: a warp takes a row (`warp_row` of `common.cuh`).
    pub fn rows(count: usize) -> Self {
        Self::each(count, ROWS_PER_BLOCK, 128)
    }
}
