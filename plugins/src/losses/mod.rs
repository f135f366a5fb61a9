//! Losses: supervised tokens to a loss per token.

mod cross_entropy;
mod dft;
