//! A loss: label smoothing (Szegedy et al., <https://arxiv.org/abs/1512.00567>), which keeps a model
//! from being too sure of itself.

use apus_sdk::{Loss, LossChunk, Result, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct LabelSmoothing {
        /// Share of the target that is spread over the whole vocabulary, 0 to below 1.
        smoothing: f64 = 0.1,
    }
}

apus_sdk::register! {
    /// Cross entropy with a part of the target spread over the whole vocabulary.
    Loss, "{{component}}", LabelSmoothing
}

impl Loss for LabelSmoothing {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let right = chunk.cross_entropy()?;
        // Minus the mean log-probability of all tokens, [n, 1] to [n].
        let all = chunk.logits()?.log_softmax(1)?.mean(1)?.squeeze(1)?.neg()?;
        right.lerp(&all, self.smoothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Chunk, make};

    #[test]
    fn a_part_of_the_target_is_spread() {
        // One token with probabilities 0.7, 0.2 and 0.1, of which the first is right.
        let chunk = Chunk::new(&[0.7, 0.2, 0.1].map(f32::ln), 3, &[0]);
        let loss = make::<dyn Loss>("{{component}}", json!({"smoothing": 0.3})).unwrap();
        let found = chunk.per_token(loss.as_ref()).unwrap();
        let mean = (0.7f32.ln() + 0.2f32.ln() + 0.1f32.ln()) / 3.0;
        let expected = -0.7 * 0.7f32.ln() - 0.3 * mean;
        assert!((found[0] - expected).abs() < 1e-5, "{found:?}, {expected}");
    }

    #[test]
    fn without_smoothing_it_is_cross_entropy() {
        let chunk = Chunk::random(5, 11, 1);
        let loss = LabelSmoothing { smoothing: 0.0 };
        let found = chunk.per_token(&loss).unwrap();
        for (found, expected) in found.iter().zip(chunk.cross_entropy()) {
            assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
        }
    }
}
