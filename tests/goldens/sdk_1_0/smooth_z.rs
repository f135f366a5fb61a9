//! What `examples/smooth-z-loss` is, written with SDK 1.0.

use apus_sdk::{Loss, LossChunk, Result, Tensor};

apus_sdk::options! {
    struct SmoothZ {
        /// Share of the target that is spread over the whole vocabulary.
        smoothing: f64 = 0.1,
        /// How much log(Z)^2 counts.
        z: f64 = 1e-4,
    }
}

apus_sdk::register! {
    /// Cross entropy with label smoothing, and z log(Z)^2.
    Loss, "old_smooth_z", SmoothZ
}

impl Loss for SmoothZ {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(format!("smoothing is {}", self.smoothing).into());
        }
        let logits = chunk.logits()?;
        let labels = chunk.labels.unsqueeze(1)?;
        let right = logits.gather(1, &labels)?.squeeze(1)?;
        let log_z = chunk.cross_entropy()?.add(&right)?;
        let mean = logits.mean(1)?.squeeze(1)?;
        let target = right
            .affine(1.0 - self.smoothing, 0.0)?
            .add(&mean.affine(self.smoothing, 0.0)?)?;
        let z = log_z.sqr()?.affine(self.z, 0.0)?;
        log_z.sub(&target)?.add(&z)
    }
}
