//! The focal loss (Lin et al., 2017, <https://arxiv.org/abs/1708.02002>): tokens that the model
//! already gets right count little, so training dwells on the hard ones.

use apus_sdk::{Loss, LossChunk, Result, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Focal {
        /// How little easy tokens count; 0 is cross entropy.
        gamma: f64 = 2.0,
    }
}

apus_sdk::register! {
    /// Cross entropy times (1 - p)^gamma, where p is the probability of the right token.
    Loss, "focal", Focal
}

impl Loss for Focal {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        // From the fused cross entropy, p = exp(-ce): the logits are never needed.
        let ce = chunk.cross_entropy()?;
        let p = ce.neg()?.exp()?;
        // Above 0, where the slope of a power below 1 is infinite.
        let missing = p.affine(-1.0, 1.0)?.clamp(1e-6, 1.0)?;
        missing.powf(self.gamma)?.mul(&ce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{Chunk, make};
    use serde_json::json;

    #[test]
    fn easy_tokens_count_less() {
        // Probabilities of the right token: 0.5, 0.9, 0.1.
        let logits = [0.5, 0.5, 0.9, 0.1, 0.9, 0.1].map(f32::ln);
        let chunk = Chunk::new(&logits, 2, &[0, 0, 1]);
        let found = chunk.per_token(&Focal::default()).unwrap();
        for (found, p) in found.iter().zip([0.5f32, 0.9, 0.1]) {
            let expected = (1.0 - p).powi(2) * -p.ln();
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn gamma_0_is_cross_entropy() {
        let chunk = Chunk::random(20, 50, 7);
        let loss = make::<dyn Loss>("focal", json!({"gamma": 0.0})).unwrap();
        let found = chunk.per_token(&*loss).unwrap();
        for (found, expected) in found.iter().zip(chunk.cross_entropy()) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn a_token_that_is_certain_costs_nothing() {
        let chunk = Chunk::new(&[100.0, 0.0], 2, &[0]);
        assert_eq!(chunk.per_token(&Focal { gamma: 0.5 }).unwrap(), [0.0]);
    }
}
