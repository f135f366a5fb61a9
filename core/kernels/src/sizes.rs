//! Sizes that stand in the sources of the kernels too; `tests/declared` compares them.

/// Elements that a block of [`crate::Grid::elements`] covers.
pub const ELEMENTS_PER_BLOCK: usize = 2048;
/// Rows that a block of [`crate::Grid::rows`] covers.
pub const ROWS_PER_BLOCK: usize = 4;
/// Pairs of a token and an expert that a block of the sorting kernels takes.
pub const PAIRS_PER_BLOCK: usize = 1024;
/// The most experts that pairs are sorted by on the device.
pub const MOST_ROUTED_EXPERTS: usize = 256;
/// Rows that a block of `lora_down` takes.
pub const DOWN_ROWS: usize = 32;
/// The most groups of a product on Hopper.
pub const MOST_PRODUCT_GROUPS: usize = 128;
/// Columns of the result that a block of a product on Hopper works on at a time.
pub const PRODUCT_COLUMNS_A_TILE: usize = 192;
/// Three stages of both operands, a buffer of results for each of two warpgroups, alignment.
pub const PRODUCT_SHARED_BYTES: u32 = 3 * (256 + 192) * 128 + 2 * 64 * 192 * 2 + 1024;
/// The widest row that `rows_norm` takes.
pub const MOST_NORM_WIDTH: usize = 384 * 4 * 8;
