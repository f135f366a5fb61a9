//! Upper bounds far above any real model. A larger number in a file is refused before memory is allocated for it.

/// The greatest number of tokens in a vocabulary, and so the bound of a token's id.
pub const MOST_TOKENS: usize = 1 << 26;

/// The greatest rank of a low-rank update.
pub const MAX_RANK: usize = 1 << 20;
