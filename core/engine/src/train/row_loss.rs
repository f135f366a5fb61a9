//! The loss of each example of a step, for a sampler that asks for it: losses of tokens are on the host after every
//! micro-batch, so that it costs the device nothing.

use super::loss::Tokens;
use serde::{Deserialize, Serialize};

/// Sums over the supervised tokens of examples, each with its place in the step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowSums(Vec<RowSum>);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct RowSum {
    place: u32,
    /// Weight times loss.
    loss: f64,
    tokens: u64,
}

impl RowSums {
    /// Counts the tokens of a micro-batch whose sequences belong to the examples at these places of the step; nothing where
    /// there are none.
    pub fn count(&mut self, tokens: &Tokens, places: &[u32]) {
        for (&place, (loss, tokens)) in places.iter().zip(tokens.of_sequences()) {
            match self.0.last_mut().filter(|last| last.place == place) {
                Some(last) => {
                    last.loss += loss;
                    last.tokens += tokens;
                }
                None => self.0.push(RowSum {
                    place,
                    loss,
                    tokens,
                }),
            }
        }
    }

    /// Adds the sums of other micro-batches.
    pub fn merge(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    /// The mean of each example, by its place in the step; of one without a token there is none.
    pub fn means(&self) -> impl Iterator<Item = (usize, f64)> {
        let known = self.0.iter().filter(|sum| sum.tokens > 0);
        known.map(|sum| (sum.place as usize, sum.loss / sum.tokens as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_over_the_tokens_of_an_example_whichever_micro_batch_it_is_in() {
        let tokens = |losses: &[f32], lengths: &[usize]| Tokens {
            losses: losses.to_vec(),
            weights: vec![0.5; losses.len()],
            lengths: lengths.to_vec(),
            ..Tokens::default()
        };
        let mut sums = RowSums::default();
        // The example at place 3 is a packed row of two samples; the one at place 0 has no supervised token.
        sums.count(&tokens(&[2.0, 4.0, 6.0], &[1, 2, 0]), &[3, 3, 0]);
        let mut other = RowSums::default();
        other.count(&tokens(&[8.0], &[1]), &[1]);
        sums.merge(&other);
        assert_eq!(sums.means().collect::<Vec<_>>(), [(3, 2.0), (1, 4.0)]);
        let mut nobody = RowSums::default();
        nobody.count(&tokens(&[8.0], &[1]), &[]);
        assert_eq!(nobody, RowSums::default());
    }
}
