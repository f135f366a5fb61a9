//! Every row once, in the order of the data.

use apus_sdk::{Epoch, Result, Sampler, register};

apus_sdk::options! {
    struct Sequential {}
}

impl Sampler for Sequential {
    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        Ok(epoch.in_order())
    }
}

register! {
    /// Every row once, in the order of the data (`--train_dataloader_shuffle false`).
    Sampler, "sequential", Sequential
}
