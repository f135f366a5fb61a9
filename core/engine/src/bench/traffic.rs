//! Counts the bytes that the memory-bound operations of a training step must move: every input is read once, and every
//! output is written once.

use super::count::Work;

/// Bits of an MXFP4 number with its share of the scale.
const PACKED_BITS: u64 = 4 * 32 + 8;

/// Bytes by group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Norms of layers.
    pub norms: u64,
    /// Rotary embedding.
    pub rope: u64,
    /// The experts' activation.
    pub activation: u64,
    /// Unpacking the experts, all of them at each use.
    pub dequantise: u64,
}

impl Traffic {
    /// Counts a step; `width` is the size of an activation in bytes, `packed` whether experts are MXFP4.
    pub fn new(work: &Work, width: u64, packed: bool) -> Self {
        let c = work.architecture;
        let layers = c.layers.len() as u64;
        let layer = &c.layers[0];
        let again = layers - (work.kept as u64).min(layers);
        let forward = layers + again;
        let tokens = work.lengths.iter().sum::<usize>() as u64;
        let rows = tokens * layer.mlp.rows_per_token() as u64;
        let qkv = layer.attention.heads.width() as u64;
        let row = c.hidden_size as u64 * width;
        let inner = layer.mlp.intermediate_size() as u64 * width;
        let experts = (3 * c.hidden_size * layer.mlp.intermediate_size()) as u64
            * layer.mlp.mixture().map_or(0, |m| m.experts) as u64;
        let unpacked = match packed {
            true => experts * PACKED_BITS / 32 / 8 + experts * width,
            false => 0,
        };
        Self {
            // Forward one norm reads a row and writes one, the other reads two and writes two; backward three are read.
            norms: tokens * row * (6 * forward + 8 * layers),
            rope: 2 * tokens * qkv * width * (forward + layers),
            activation: rows * inner * (3 * forward + 5 * layers),
            // A layer that runs again needs gate_up alone, two of three matrices.
            dequantise: unpacked * 2 * layers + unpacked / 3 * 2 * again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::count::Trained;
    use apus_model::synthetic;

    #[test]
    fn the_20b_with_half_of_its_layers_kept() {
        let config = synthetic::config("gpt-oss-20b").unwrap();
        let work = Work {
            architecture: &config.architecture,
            trained: &[Trained::default(); 24],
            head_trained: false,
            kept: 12,
            lengths: &[60, 40],
            targets: 0,
        };
        let found = Traffic::new(&work, 2, true);
        // 36 forward passes of a layer, 24 backward.
        assert_eq!(found.norms, 100 * 5760 * (6 * 36 + 8 * 24));
        assert_eq!(found.rope, 100 * 80 * 64 * 2 * 2 * 60);
        assert_eq!(found.activation, 400 * 5760 * (3 * 36 + 5 * 24));
        let experts = 32 * 3 * 2880 * 2880;
        let bytes = experts / 2 + experts / 32 + 2 * experts;
        assert_eq!(found.dequantise, bytes * 48 + bytes / 3 * 2 * 12);
        assert_eq!(Traffic::new(&work, 2, false).dequantise, 0);
    }
}
