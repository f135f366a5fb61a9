//! Sizes that no model comes near, so that a number from a file is refused before it becomes memory.

/// The greatest number of tokens of a vocabulary, and so the bound of a token's id.
pub const MOST_TOKENS: usize = 1 << 26;

/// The greatest rank of a low-rank update.
pub const MAX_RANK: usize = 1 << 20;
