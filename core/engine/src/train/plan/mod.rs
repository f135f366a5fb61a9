//! The memory plan that `--dry_run` shows and `auto` settings follow.
//!
//! What lives through a step (weights, adapters, the inputs of layers, tapes of layers that keep them) is added up;
//! of what comes and goes, only the greatest moment counts. It is tensors alone: the driver, the libraries and the
//! kernels take several hundred MiB of a card beside them.

mod sizes;

use apus_base::memory::gib;
use apus_model::families::{LayerSpec, ModelConfig};
use comfy_table::{Table, presets};
use sizes::Sizes;

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
    /// Bytes of all weights as stored on the device, without the trainable parameters.
    pub weight_bytes: u64,
    /// Trainable parameters.
    pub trainable: u64,
    /// Bytes of their gradients that are there at a time.
    pub gradient_bytes: u64,
    /// Bytes that the optimizer keeps from step to step.
    pub optimizer_bytes: u64,
    /// Layers that keep their tape.
    pub kept_layers: u64,
    /// Whether matrices of experts are unpacked or converted for each use.
    pub experts_made_anew: bool,
    /// The most experts that are unpacked at a time, if not all.
    pub experts_at_once: Option<u64>,
    /// Bytes of the layers and the head that are gathered at a time, where the base is spread over ranks.
    pub gathered_bytes: u64,
    /// Whether experts carry adapters.
    pub expert_adapters: bool,
    /// Bytes that tuners add to the tape of a layer; the greatest of all layers.
    pub tuner_tape_bytes: u64,
}

impl MemoryPlan {
    /// Works it out for a model of this shape.
    pub fn new(config: &ModelConfig, shape: &Shape) -> Self {
        let layers = Sizes::of_layers(config, shape);
        let first_kept = layers.len().saturating_sub(shape.kept_layers as usize);
        let kept = layers[first_kept..].iter().map(Sizes::tape).sum();
        // A layer that kept only its input has a tape again while it goes back.
        let again = |layer: &Sizes| match shape.kept_layers {
            0 => layer.tape(),
            _ => 0,
        };
        let has_experts = |layer: &LayerSpec| layer.mlp.mixture().is_some();
        let greatest = |bytes: &dyn Fn(&Sizes) -> u64| layers.iter().map(bytes).max().unwrap_or(0);
        let moments = [
            ("at most at once: output head", greatest(&Sizes::head)),
            (
                "at most at once: attention of one layer, backward",
                greatest(&Sizes::attention_backward),
            ),
            (
                match config.architecture.layers.iter().any(has_experts) {
                    true => "at most at once: experts of one layer, backward",
                    false => "at most at once: MLP of one layer, backward",
                },
                greatest(&|layer| again(layer) + layer.mlp_backward()),
            ),
        ];
        let mut parts = vec![
            (
                match shape.gathered_bytes {
                    0 => "weights",
                    _ => "weights, this card's part",
                },
                shape.weight_bytes,
            ),
            ("gathered at a time", shape.gathered_bytes),
            (
                "trained parameters and gradients",
                shape.trainable * 4 + shape.gradient_bytes,
            ),
            ("optimizer state", shape.optimizer_bytes),
            ("inputs of layers", layers.iter().map(Sizes::x).sum()),
            ("tapes of layers that keep them", kept),
        ];
        parts.retain(|(name, bytes)| *bytes > 0 || *name != "gathered at a time");
        parts.extend(moments.into_iter().max_by_key(|(_, bytes)| *bytes));
        Self { parts }
    }

    /// The most layers that can keep their tape in `free` bytes beside the weights, which are there
    /// already; a twentieth is left over.
    pub fn layers_that_fit(config: &ModelConfig, shape: &Shape, free: u64) -> usize {
        let with = |kept_layers: usize| Shape {
            kept_layers: kept_layers as u64,
            ..*shape
        };
        (0..=config.architecture.layers.len())
            .rev()
            .find(|&kept| Self::fits(config, &with(kept), free))
            .unwrap_or(0)
    }

    /// Whether a run fits in `free` bytes beside the weights and what is trained, which are there already; a twentieth
    /// is left over.
    pub fn fits(config: &ModelConfig, shape: &Shape, free: u64) -> bool {
        let there = shape.weight_bytes + shape.trainable * 4;
        Self::new(config, shape).total() - there <= free / 20 * 19
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

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1u32 << 30) as f64;
    /// Weights of gpt-oss-20b in GiB.
    const PACKED: f64 = 12.81;
    const DENSE: f64 = 38.95;

    /// Rank 8 on attention.
    fn shape(tokens: u64, weights: f64) -> Shape {
        Shape {
            tokens,
            compute_bytes: 2,
            weight_bytes: (weights * GIB) as u64,
            trainable: 3_981_312,
            gradient_bytes: 4 * 3_981_312,
            optimizer_bytes: 2 * 4 * 3_981_312,
            kept_layers: 0,
            experts_made_anew: weights == PACKED,
            experts_at_once: None,
            gathered_bytes: 0,
            expert_adapters: false,
            tuner_tape_bytes: 0,
        }
    }

    fn planned(shape: &Shape) -> f64 {
        let config = apus_model::synthetic::config("gpt-oss-20b").unwrap();
        MemoryPlan::new(&config, shape).total() as f64 / GIB
    }

    /// `apus bench` on an H100: tokens of the micro-batch, weights, layers kept, parameters of adapters, GiB.
    #[test]
    fn within_a_tenth_of_what_was_measured() {
        const ATTENTION: u64 = 3_981_312;
        const EXPERTS: u64 = 92_454_912;
        for (tokens, weights, kept_layers, trainable, measured) in [
            (16_384, PACKED, 0, ATTENTION, 17.76),
            (16_384, PACKED, 24, ATTENTION, 46.56),
            (16_384, PACKED, 24, EXPERTS, 47.59),
            (4_096, DENSE, 24, ATTENTION, 47.51),
            (4_096, DENSE, 24, EXPERTS, 48.78),
            (2_048, PACKED, 0, ATTENTION, 14.34),
            (60_000, PACKED, 0, ATTENTION, 28.66),
        ] {
            let planned = planned(&Shape {
                kept_layers,
                trainable,
                gradient_bytes: 4 * trainable,
                optimizer_bytes: 2 * 4 * trainable,
                expert_adapters: trainable == EXPERTS,
                ..shape(tokens, weights)
            });
            assert!(
                (planned / measured - 1.0).abs() < 0.1,
                "{tokens} tokens, {weights} GiB of weights, {kept_layers} layers kept: planned {planned:.2}, measured \
                 {measured}"
            );
            println!("{tokens} {weights} {kept_layers}: {planned:.2} {measured}");
        }
    }

    /// The same model with one dense MLP of the experts' width in place of experts, by hand.
    #[test]
    fn a_dense_layer_keeps_what_its_backward_pass_reads() {
        use apus_model::families::{DenseSpec, MlpSpec};
        let mut config = apus_model::synthetic::config("gpt-oss-20b").unwrap();
        for layer in &mut config.architecture.layers {
            layer.mlp = MlpSpec::Dense(DenseSpec {
                intermediate_size: 2880,
                activation: layer.mlp.activation(),
                bias: true,
            });
        }
        let shape = Shape {
            kept_layers: 24,
            trainable: 0,
            gradient_bytes: 0,
            optimizer_bytes: 0,
            experts_made_anew: false,
            ..shape(1000, 0.0)
        };
        let plan = MemoryPlan::new(&config, &shape);
        let of = |part: &str| plan.parts.iter().find(|(name, _)| *name == part).unwrap().1;
        let attention = 1000 * 2 * (2880 + 5120 + 4096) + 64 * 1000 * 4;
        let mlp = 1000 * 2 * (2880 + 2880 + 2 * 2880 + 2880);
        assert_eq!(of("tapes of layers that keep them"), 24 * (attention + mlp));
        let all = config.architecture.layers.len() as u64 * 1000 * 2 * 2880;
        assert_eq!(of("inputs of layers"), all);
    }

    #[test]
    fn more_memory_keeps_more_layers() {
        let config = apus_model::synthetic::config("gpt-oss-20b").unwrap();
        let fit = |gib: u64| MemoryPlan::layers_that_fit(&config, &shape(16_384, DENSE), gib << 30);
        assert_eq!((fit(1), fit(1000)), (0, 24));
        assert!(fit(20) < fit(40) && fit(40) <= 24);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(gib(1 << 30), "1.00 GiB");
        assert_eq!(gib(3 << 20), "3.0 MiB");
    }
}
