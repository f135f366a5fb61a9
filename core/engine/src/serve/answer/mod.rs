//! From the tokens of an answer to what a client is told of it, token by token.

mod logprobs;
mod reading;
mod whole;

pub use logprobs::{TokenEntry, entry};
pub use reading::{Piece, Reading, ReadingOptions};
pub use whole::Whole;
