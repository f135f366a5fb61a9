//! Cross entropy that counts the rows of some channels differently.

use apus_sdk::{Loss, LossChunk, Need, Result, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct ChannelLoss {
        /// The channels whose tokens count differently.
        channels: Vec<String> = Vec::new(),
        /// How much they count.
        factor: f32 = 0.5,
    }
    limits {
        factor: 0.0..,
    }
}

apus_sdk::register! {
    /// Cross entropy in which the rows of some channels count more or less.
    Loss, "channel_loss", ChannelLoss
}

impl Loss for ChannelLoss {
    fn needs() -> &'static [Need] {
        &[Need::ChunkRows]
    }

    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let rows = chunk.rows()?;
        let named = |channel: &str| self.channels.iter().any(|one| one == channel);
        let factor = rows.of_tokens().map(|row| match row.channel() {
            Some(channel) if named(channel) => self.factor,
            _ => 1.0,
        });
        let factors: Vec<f32> = factor.collect();
        let loss = chunk.cross_entropy()?;
        loss.mul(&loss.new_tensor(&factors, &[factors.len()])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Chunk, make};
    use apus_sdk::{BatchRow, ChunkRows};

    #[test]
    fn tokens_of_a_channel_count_half() {
        let row = |channel: Option<&str>| BatchRow::new(None, channel.map(str::to_owned));
        let rows = vec![row(Some("forum")), row(None)];
        let rows = ChunkRows::new(vec![0, 0, 1], vec![1, 2, 1], rows);
        let chunk = Chunk::random(3, 7, 1).with_rows(rows);
        let loss = make::<dyn Loss>("channel_loss", json!({"channels": ["forum"]})).unwrap();
        let found = chunk.per_token(&*loss).unwrap();
        for (at, (found, usual)) in found.iter().zip(chunk.cross_entropy()).enumerate() {
            let factor = if at < 2 { 0.5 } else { 1.0 };
            assert!((found - factor * usual).abs() < 1e-6);
        }
    }
}
