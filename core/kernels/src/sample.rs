//! The sizes of the kernels that sample.

use crate::sizes::{SAMPLE_BINS, SAMPLE_CANDIDATES, SAMPLE_CHUNK};

/// Words of the workspace of a row of logits: 0 before the first use, and left as the kernels need it for the next.
pub const fn sample_words(vocab: usize) -> usize {
    const STATE: usize = 32;
    const PART: usize = 8;
    STATE + vocab.div_ceil(SAMPLE_CHUNK) * PART + 3 * SAMPLE_BINS + SAMPLE_CANDIDATES
}
