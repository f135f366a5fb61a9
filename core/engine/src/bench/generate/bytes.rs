//! Counts the bytes that a step of generation must read: every weight that its tokens use once, and the keys and values that
//! they attend to. Which experts tokens use is not known here; the count assumes that all are equally likely.

use crate::bench::traffic::PACKED_BITS;
use apus_model::families::{Architecture, ModelConfig};
use apus_model::tensors::{Role, TensorList, TensorSpec};

/// A model as far as its bytes go.
pub struct StepBytes<'a> {
    /// Its shape.
    pub config: &'a ModelConfig,
    /// Bytes of a number of a weight that is not packed, and of keys and values.
    pub width: usize,
    /// Whether experts are MXFP4.
    pub packed: bool,
}

impl StepBytes<'_> {
    /// The weights that one token of each of `streams` sequences uses.
    pub fn weights(&self, streams: usize) -> f64 {
        let list = self.config.tensors();
        let weights = list.iter();
        weights.map(|spec| self.weight(&list, spec, streams)).sum()
    }

    fn weight(&self, list: &TensorList, spec: &TensorSpec, streams: usize) -> f64 {
        let bytes = spec.elements() as f64 * self.width as f64;
        match (spec.role, spec.layer) {
            (Role::Embedding, _) => {
                let row = spec.shape.last().copied().unwrap_or(0) * self.width;
                let rows = (streams * row) as f64;
                // A head that is the embedding reads all of it.
                match list.weight(None, Role::Head) {
                    Some(_) => rows,
                    None => bytes,
                }
            }
            (Role::Experts(_), Some(layer)) => {
                let numbers = match self.packed && spec.expert_matrix().is_some() {
                    true => spec.elements() as f64 * PACKED_BITS as f64 / 32.0 / 8.0,
                    false => bytes,
                };
                numbers * self.used_experts(layer, streams)
            }
            _ => bytes,
        }
    }

    /// The share of a layer's experts that tokens use, if each token chooses among all alike.
    fn used_experts(&self, layer: usize, streams: usize) -> f64 {
        let mlp = &self.config.architecture.layers[layer].mlp;
        match mlp.mixture() {
            Some(mixture) => {
                let chosen = mixture.experts_per_token as f64 / mixture.experts as f64;
                1.0 - (1.0 - chosen).powi(streams as i32)
            }
            None => 1.0,
        }
    }

    /// The keys and values that a token at this position attends to, in all layers.
    pub fn cache(&self, position: usize) -> f64 {
        let Architecture { layers, .. } = &self.config.architecture;
        let of = layers.iter().map(|layer| {
            let attention = &layer.attention;
            let seen = attention
                .window
                .map_or(position + 1, |window| window.min(position + 1));
            2 * seen * attention.heads.kv * attention.heads.dim * self.width
        });
        of.sum::<usize>() as f64
    }

    /// A step of `streams` sequences that are this long on average.
    pub fn step(&self, streams: usize, position: usize) -> f64 {
        self.weights(streams) + streams as f64 * self.cache(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::synthetic;

    #[test]
    fn a_token_of_the_20b() {
        let config = synthetic::config("gpt-oss-20b").unwrap();
        let bytes = |packed| StepBytes {
            config: &config,
            width: 2,
            packed,
        };
        let one = bytes(true).weights(1);
        // 3.6 billion numbers are used, of which the experts' have 4.25 bits.
        assert!((3.6e9..3.8e9).contains(&one), "{one}");
        let (few, all) = (bytes(true).weights(32), bytes(true).weights(1_000));
        assert!(few > 0.95 * all && few < all, "{few} {all}");
        let list = config.tensors();
        let experts = list.expert_matrices();
        let numbers: usize = experts.map(|(_, _, spec)| spec.elements()).sum();
        let difference = bytes(false).weights(1_000) - all;
        let expected = numbers as f64 * (2.0 - 4.25 / 8.0);
        assert!((difference / expected - 1.0).abs() < 1e-9);
        // Half of the layers see 128 positions.
        let row = 2.0 * 8.0 * 64.0 * 2.0;
        assert_eq!(bytes(true).cache(999), 12.0 * row * (1000.0 + 128.0));
    }
}
