//! Which tokens are left, and the draw: [`Choice`]'s, for an answer.

use super::Sampling;
use apus_model::ops::sample::{Choice, Draw};

impl Sampling {
    /// Which tokens are kept.
    pub fn choice(&self) -> Choice {
        Choice {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    /// What the random number of the token at index `place` (from 0) of an answer follows from.
    pub fn draw(&self, answer: u64, place: u64) -> Draw {
        Draw {
            seed: self.seed,
            answer,
            place,
        }
    }

    /// The token at index `place` (from 0) of an answer by these logits, of which one at least is finite: drawn, or the most
    /// probable one.
    pub fn token(&self, logits: &[f32], answer: u64, place: u64) -> u32 {
        self.choice().token(logits, self.draw(answer, place))
    }
}
