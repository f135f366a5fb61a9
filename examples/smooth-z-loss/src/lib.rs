//! Cross entropy with label smoothing (Szegedy et al., 2016, <https://arxiv.org/abs/1512.00567>) and z-loss (Chowdhery et
//! al., 2022, <https://arxiv.org/abs/2204.02311>), which keeps the sum Z of the exponentials of logits near to 1.

use apus_sdk::{Loss, LossChunk, Result, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct SmoothZ {
        /// Share of the target that is spread over the whole vocabulary.
        smoothing: f64 = 0.1,
        /// How much log(Z)^2 counts.
        z: f64 = 1e-4,
    }
    limits {
        smoothing: 0.0..1.0,
        z: 0.0..,
    }
}

apus_sdk::register! {
    /// Cross entropy with label smoothing, and z log(Z)^2.
    Loss, "smooth_z", SmoothZ
}

impl Loss for SmoothZ {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let logits = chunk.logits()?;
        let log_z = logits.logsumexp(1)?.squeeze(1)?;
        let right = logits.gather(1, &chunk.labels.unsqueeze(1)?)?.squeeze(1)?;
        let target = right.lerp(&logits.mean(1)?.squeeze(1)?, self.smoothing)?;
        (&log_z - target)? + log_z.sqr()? * self.z
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Chunk, make};

    #[test]
    fn two_tokens_by_hand() {
        // Z is 4 and 2.
        let chunk = Chunk::new(&[3f32.ln(), 0.0, 0.0, 0.0], 2, &[0, 1]);
        let found = chunk
            .per_token(&SmoothZ {
                smoothing: 0.2,
                z: 0.5,
            })
            .unwrap();
        let expected = [
            4f32.ln() - 0.9 * 3f32.ln() + 0.5 * 4f32.ln().powi(2),
            2f32.ln() + 0.5 * 2f32.ln().powi(2),
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn without_both_it_is_cross_entropy() {
        let chunk = Chunk::random(20, 50, 7);
        let loss = make::<dyn Loss>("smooth_z", json!({"smoothing": 0.0, "z": 0.0})).unwrap();
        let found = chunk.per_token(&*loss).unwrap();
        for (found, expected) in found.iter().zip(chunk.cross_entropy()) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
