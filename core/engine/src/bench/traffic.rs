//! Counts the bytes that the memory-bound operations of a training step must move: every input is read once, and every
//! output is written once.

use super::count::Work;
use apus_model::tensors::{ExpertMatrix, Role};

/// Bits of 32 MXFP4 numbers with their scale.
pub const PACKED_BITS: u64 = 4 * 32 + 8;

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
        let c = &work.config.architecture;
        let list = work.config.tensors();
        let tokens = work.lengths.iter().sum::<usize>() as u64;
        let row = c.hidden_size as u64 * width;
        let mut found = Self::default();
        for (index, layer) in c.layers.iter().enumerate() {
            let again = u64::from(index + work.kept < c.layers.len());
            let forward = 1 + again;
            let rows = tokens * layer.mlp.rows_per_token() as u64;
            let qkv = layer.attention.heads.width() as u64;
            let inner = layer.mlp.intermediate_size() as u64 * width;
            // Forward one norm reads a row and writes one, the other reads two and writes two; backward three are read.
            found.norms += tokens * row * (6 * forward + 8);
            found.rope += 2 * tokens * qkv * width * (forward + 1);
            found.activation += rows * inner * (3 * forward + 5);
            if packed {
                let unpacked = |matrix: ExpertMatrix| {
                    let spec = list.weight(Some(index), Role::Experts(matrix));
                    let elements = spec.map_or(0, |spec| spec.elements()) as u64;
                    elements * PACKED_BITS / 32 / 8 + elements * width
                };
                let gate_up = unpacked(ExpertMatrix::GateUp);
                // A layer that runs again needs gate_up alone.
                found.dequantise += 2 * (gate_up + unpacked(ExpertMatrix::Down)) + gate_up * again;
            }
        }
        found
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
            config: &config,
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
