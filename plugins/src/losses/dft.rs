//! Dynamic fine-tuning (Wu et al., <https://arxiv.org/abs/2508.05629>), as ms-swift's `enable_dft_loss`.

use apus_sdk::built_in::{Answer, Argument};
use apus_sdk::{Loss, LossChunk, Result, Tensor, register};
use serde::Deserialize;

#[derive(Deserialize)]
struct Dft;

impl Loss for Dft {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let ce = chunk.cross_entropy()?;
        let probability = ce.neg()?.exp()?.detach()?;
        ce.mul(&probability)
    }
}

register! {
    /// Cross entropy times the probability of the right token, through which no gradient flows.
    Loss, "dft", Dft
}

apus_sdk::built_in! {
    Loss, "dft",
    arguments: &[Argument {
        commands: &["sft"],
        names: &["enable_dft_loss"],
        answer: Answer::Refused(&["false"], "it is a loss here: --loss_type dft"),
    }],
}
