//! The memory plan that `--dry_run` shows: weights, adapters, optimizer, activations.

use crate::model::config::Config;
use comfy_table::{Table, presets};

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// Name and bytes, in the order shown.
    pub parts: Vec<(&'static str, u64)>,
}

/// What the plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Bytes of a weight or activation in the compute type.
    pub compute_bytes: u64,
    /// Bytes of all weights as stored on the device.
    pub weight_bytes: u64,
    /// Trainable parameters.
    pub trainable: u64,
    /// f32 tensors that the optimizer keeps for each parameter (2 for adamw).
    pub optimizer_copies: u64,
    /// Layers that keep their tape.
    pub kept_layers: u64,
    /// Whether experts are dequantised into a buffer for each use.
    pub packed_experts: bool,
}

impl MemoryPlan {
    /// Works it out for a model of this shape.
    pub fn new(config: &Config, shape: &Shape) -> Self {
        let Shape {
            tokens,
            compute_bytes,
            ..
        } = *shape;
        let c = compute_bytes;
        let (hidden, inter) = (config.hidden_size as u64, config.intermediate_size as u64);
        let layers = config.num_hidden_layers as u64;
        let routed = tokens * config.num_experts_per_tok as u64;
        let qkv = ((config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim)
            as u64;
        let attention = (config.num_attention_heads * config.head_dim) as u64;
        let tape =
            tokens * c * (3 * hidden + 2 * qkv + 2 * attention) + routed * c * (2 * inter + hidden);
        // The layer that runs again has a tape as well.
        let kept = shape.kept_layers.max(1);
        let working = routed * c * (2 * hidden + 4 * inter) + tokens * c * (2 * qkv + 4 * hidden);
        let expert_matrix = config.num_local_experts as u64 * hidden * inter * c;
        let buffer = if shape.packed_experts {
            2 * expert_matrix
        } else {
            0
        };
        let logits = (tokens.min(1 << 12) * config.vocab_size as u64).min(1 << 28) * (3 * c);
        let parts = vec![
            ("weights", shape.weight_bytes),
            ("adapters and gradients", shape.trainable * 8),
            (
                "optimizer state",
                shape.trainable * 4 * shape.optimizer_copies,
            ),
            (
                "layer inputs (checkpoints)",
                (layers + 1) * tokens * hidden * c,
            ),
            ("tapes of kept layers", kept * tape),
            ("working buffers of one layer", working),
            ("dequantised experts of one layer", buffer),
            ("logits of one chunk", logits),
        ];
        Self { parts }
    }

    /// The most layers that can keep their tape in `free` bytes beside the weights, which are there
    /// already; a tenth is left over.
    pub fn layers_that_fit(config: &Config, shape: &Shape, free: u64) -> usize {
        let usable = free / 10 * 9;
        let needed = |kept_layers: u64| {
            let plan = Self::new(
                config,
                &Shape {
                    kept_layers,
                    ..*shape
                },
            );
            plan.total() - shape.weight_bytes
        };
        (0..=config.num_hidden_layers)
            .rev()
            .find(|&kept| needed(kept as u64) <= usable)
            .unwrap_or(0)
    }

    /// All together, in bytes.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// As a table for a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let all = self
            .parts
            .iter()
            .copied()
            .chain([("together", self.total())]);
        for (name, bytes) in all {
            table.add_row([name.to_owned(), gib(bytes)]);
        }
        table.to_string()
    }
}

/// `1.25 GiB`, or MiB below one GiB.
pub fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1u32 << 30);
    if gib >= 1.0 {
        format!("{gib:.2} GiB")
    } else {
        format!("{:.1} MiB", gib * 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_keeps_more_layers() {
        let config = crate::synthetic::config("gpt-oss-20b").unwrap();
        let shape = Shape {
            tokens: 16_384,
            compute_bytes: 2,
            weight_bytes: 45 << 30,
            trainable: 15_000_000,
            optimizer_copies: 2,
            kept_layers: 0,
            packed_experts: false,
        };
        let fit = |gib: u64| MemoryPlan::layers_that_fit(&config, &shape, gib << 30);
        assert_eq!((fit(1), fit(1000)), (0, 24));
        assert!(fit(30) < fit(60) && fit(60) <= 24);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(gib(1 << 30), "1.00 GiB");
        assert_eq!(gib(3 << 20), "3.0 MiB");
    }
}
