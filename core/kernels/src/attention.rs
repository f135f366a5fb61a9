//! Which versions of the attention kernels there are, and which are the fastest where.

use crate::module::{Attention, LargeAttention, Module};
use crate::sizes::{
    PAGE, PAGED_FEW_SPLITS, PAGED_MOST_SPLITS, PAGED_SHORT_SPAN, PAGED_USUAL_SPLIT,
};
use crate::table::{
    ATTENTION_D16, ATTENTION_D32, ATTENTION_D64, ATTENTION_D64_HOPPER, ATTENTION_D128,
};

/// Rows (of queries, or of keys in `attention_backward_kv`) that one block of the large attention kernels covers.
pub const fn attention_tile(head_dim: usize) -> usize {
    if head_dim <= 64 { 128 } else { 64 }
}

/// The most splits that `paged_attention` makes of a sequence of at most this many keys; with a window it sees, besides, the rest
/// of a page.
pub fn paged_splits(positions: usize, window: Option<usize>) -> usize {
    let span = window.map_or(positions, |window| positions.min(window + PAGE - 1));
    if span <= PAGED_SHORT_SPAN {
        return 1;
    }
    let usual = span.div_ceil(PAGED_USUAL_SPLIT);
    usual.clamp(PAGED_FEW_SPLITS, PAGED_MOST_SPLITS)
}

impl Attention {
    /// The kernels of a head dim, if there are any.
    pub fn new(head_dim: usize) -> Option<Self> {
        module(head_dim).map(|module| Self { module })
    }
}

impl LargeAttention {
    /// The version of `attention_forward` for a card of compute capability `capability` (major, minor): the fastest measured.
    pub fn forward(head_dim: usize, capability: (i32, i32)) -> Option<Self> {
        Self::new(head_dim, capability == (9, 0))
    }

    /// The version of `attention_backward_kv` and `attention_backward_q`, which depends on whether there is a sliding window too.
    pub fn backward(head_dim: usize, capability: (i32, i32), windowed: bool) -> Option<Self> {
        Self::new(head_dim, capability == (9, 0) && !windowed)
    }

    fn new(head_dim: usize, hopper: bool) -> Option<Self> {
        let (module, threads) = match (head_dim, hopper) {
            (64, true) => (&ATTENTION_D64_HOPPER, 256),
            _ => (module(head_dim)?, 128),
        };
        Some(Self { module, threads })
    }
}

fn module(head_dim: usize) -> Option<&'static Module> {
    match head_dim {
        16 => Some(&ATTENTION_D16),
        32 => Some(&ATTENTION_D32),
        64 => Some(&ATTENTION_D64),
        128 => Some(&ATTENTION_D128),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::PAGED_LEAST_SPLIT;

    /// The rule of `split_size` in paged_attention.cuh.
    #[test]
    fn no_sequence_has_more_splits_than_there_is_room_for() {
        let up64 = |count: usize, parts: usize| count.div_ceil(parts).next_multiple_of(64);
        let splits = |span: usize| {
            let usual = up64(span, PAGED_FEW_SPLITS).clamp(PAGED_LEAST_SPLIT, PAGED_USUAL_SPLIT);
            span.div_ceil(match span <= PAGED_SHORT_SPAN {
                true => PAGED_SHORT_SPAN,
                false => usual.max(up64(span, PAGED_MOST_SPLITS)),
            })
        };
        let mut most = 0;
        for positions in 1..40_000 {
            most = most.max(splits(positions));
            assert!(most <= paged_splits(positions, None), "{positions}");
        }
        assert_eq!(
            (most, paged_splits(1 << 20, None)),
            (PAGED_MOST_SPLITS, PAGED_MOST_SPLITS)
        );
        assert_eq!(paged_splits(100_000, Some(128)), 1);
        assert_eq!(paged_splits(100, Some(4096)), 1);
    }

    #[test]
    fn hopper_has_its_own_where_they_are_faster() {
        let name = |version: Option<LargeAttention>| version.map(|v| (v.module.name, v.threads));
        let hopper = Some(("attention_d64_hopper", 256));
        let every = Some(("attention_d64", 128));
        assert_eq!(name(LargeAttention::forward(64, (9, 0))), hopper);
        assert_eq!(name(LargeAttention::forward(64, (8, 0))), every);
        assert_eq!(name(LargeAttention::forward(64, (10, 0))), every);
        assert_eq!(name(LargeAttention::backward(64, (9, 0), false)), hopper);
        assert_eq!(name(LargeAttention::backward(64, (9, 0), true)), every);
        let d128 = Some(("attention_d128", 128));
        assert_eq!(name(LargeAttention::forward(128, (9, 0))), d128);
        assert_eq!(name(LargeAttention::forward(48, (9, 0))), None);
    }
}
