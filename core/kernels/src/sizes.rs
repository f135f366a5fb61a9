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
/// Positions of a page of keys and values.
pub const PAGE: usize = 16;
/// Query heads of a block of `paged_attention`.
pub const PAGED_ROWS: usize = 8;
/// Positions up to which one block of `paged_attention` takes all keys of a sequence.
pub const PAGED_SHORT_SPAN: usize = 384;
/// Blocks that share the keys of a sequence while it has at most [`PAGED_USUAL_SPLIT`] positions for each.
pub const PAGED_FEW_SPLITS: usize = 8;
/// The most blocks that share the keys of a sequence.
pub const PAGED_MOST_SPLITS: usize = 32;
/// The most positions of a split before there are [`PAGED_MOST_SPLITS`].
pub const PAGED_USUAL_SPLIT: usize = 512;
/// The least positions of a split.
pub const PAGED_LEAST_SPLIT: usize = 256;
/// Threads of a block of the kernels that sample.
pub const SAMPLE_THREADS: u32 = 256;
/// Logits that a warp of the kernels that sample takes at a time.
pub const SAMPLE_CHUNK: usize = 1024;
/// Bins of the distance to the greatest logit.
pub const SAMPLE_BINS: usize = 2048;
/// Logits in question that are kept apart.
pub const SAMPLE_CANDIDATES: usize = 4096;
