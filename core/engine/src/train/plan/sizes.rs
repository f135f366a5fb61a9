//! Bytes of the tensors of a step, one function a group, named as the fields of the tapes and the variables of the
//! backward passes that hold them: who changes one of those changes its line here.

use super::Shape;
use crate::train::loss::chunk_rows;
use apus_model::families::ModelConfig;
use apus_model::tensors::{ExpertMatrix, Role};

/// Widths of a layer's tensors and numbers of rows of a micro-batch.
pub struct Sizes {
    /// `T`.
    tokens: u64,
    /// `N = T K`.
    rows: u64,
    hidden: u64,
    inter: u64,
    heads: u64,
    /// `(Q + 2 KV) D`.
    qkv_width: u64,
    /// `Q D`.
    width: u64,
    /// Whether queries and keys are normed.
    qk_norms: bool,
    /// The number of experts, if there are experts.
    experts: Option<u64>,
    /// Elements of the first matrices of all experts.
    gate_up_matrices: u64,
    /// Elements of the last matrices of all experts.
    down_matrices: u64,
    vocab: u64,
    /// Bytes of an activation.
    c: u64,
    made_anew: bool,
    /// The most experts whose matrices are made at a time.
    at_once: Option<u64>,
    expert_adapters: bool,
    /// Bytes of a layer's packed adapters.
    packs: u64,
    /// Bytes of what tuners keep.
    tuners: u64,
}

const F32: u64 = 4;

impl Sizes {
    /// For each layer of a model and a micro-batch; there is at least one.
    pub fn of_layers(config: &ModelConfig, shape: &Shape) -> Vec<Self> {
        let architecture = &config.architecture;
        let list = config.tensors();
        let layers = architecture.layers.iter().enumerate();
        let sizes = layers.map(|(index, layer)| {
            let matrix = |matrix| {
                let spec = list.weight(Some(index), Role::Experts(matrix));
                spec.map_or(0, |spec| spec.elements()) as u64
            };
            Self {
                tokens: shape.tokens,
                rows: shape.tokens * layer.mlp.rows_per_token() as u64,
                hidden: architecture.hidden_size as u64,
                inter: layer.mlp.intermediate_size() as u64,
                heads: layer.attention.heads.q as u64,
                qkv_width: layer.attention.heads.width() as u64,
                width: layer.attention.width() as u64,
                qk_norms: layer.attention.qk_norms,
                experts: layer.mlp.mixture().map(|m| m.experts as u64),
                gate_up_matrices: matrix(ExpertMatrix::GateUp),
                down_matrices: matrix(ExpertMatrix::Down),
                vocab: architecture.vocab_size as u64,
                c: shape.compute_bytes,
                made_anew: shape.experts_made_anew,
                at_once: shape.experts_at_once,
                expert_adapters: shape.expert_adapters,
                tuners: shape.tuner_tape_bytes,
                packs: 2 * shape.trainable * shape.compute_bytes / architecture.layers.len() as u64,
            }
        });
        sizes.collect()
    }

    /// `[T, H]`: the input of a layer, a residual, a gradient by either.
    pub fn x(&self) -> u64 {
        self.tokens * self.hidden * self.c
    }

    /// `[T, (Q + 2 KV) D]`: queries, keys and values.
    fn qkv(&self) -> u64 {
        self.tokens * self.qkv_width * self.c
    }

    /// `[T, Q D]`: the output of attention.
    fn out(&self) -> u64 {
        self.tokens * self.width * self.c
    }

    /// `[Q, T]` f32.
    fn lse(&self) -> u64 {
        self.heads * self.tokens * F32
    }

    /// `[N, 2 F]`: gate and up of the routed rows, which are all tokens where there are no experts.
    fn gate_up(&self) -> u64 {
        self.rows * 2 * self.inter * self.c
    }

    /// `[N, F]`: the activation of the routed rows.
    fn h(&self) -> u64 {
        self.rows * self.inter * self.c
    }

    /// `[N, H]`: the routed rows, before or after their experts.
    fn y(&self) -> u64 {
        self.rows * self.hidden * self.c
    }

    /// Logits, weights, and the plan's ids, order and inverse.
    fn routing(&self) -> u64 {
        let logits = |experts| F32 * (self.tokens * experts + 4 * self.rows);
        self.experts.map_or(0, logits)
    }

    /// Matrices `[E, inputs, outputs]` of a layer's experts while they are used, where they are not kept so: all, or those of a
    /// range of experts with the product of their rows.
    fn matrices(&self, elements: u64, product: u64) -> u64 {
        match (self.made_anew, self.at_once, self.experts) {
            (false, ..) => 0,
            (true, Some(at_once), Some(experts)) if at_once < experts => {
                elements * self.c / experts * at_once + product * at_once / experts
            }
            (true, ..) => elements * self.c,
        }
    }

    /// What the tape of attention holds: the normed input of q, k and v, qkv (also before their norms, if there are any), the
    /// output that o reads and its log-sum-exps.
    fn attention_tape(&self) -> u64 {
        let projected = if self.qk_norms { self.qkv() } else { 0 };
        self.x() + self.qkv() + projected + self.out() + self.lse()
    }

    /// What the tape of the MLP holds beside its normed input: of experts the routing and gate and up, of a dense one gate
    /// and up and the activation that down reads.
    fn mlp_tape(&self) -> u64 {
        match self.experts {
            Some(_) => self.routing() + self.gate_up(),
            None => self.gate_up() + self.h(),
        }
    }

    /// What a layer's tape holds beside the layer's input: attention's, the residual in the middle, its normed copy
    /// that the MLP reads, and the MLP's; the adapters packed in the compute type, B both ways; and what tuners keep.
    pub fn tape(&self) -> u64 {
        let (middle, normed) = (self.x(), self.x());
        self.attention_tape() + middle + normed + self.mlp_tape() + self.packs + self.tuners
    }

    /// Backward of the MLP, beside the tape.
    pub fn mlp_backward(&self) -> u64 {
        match self.experts {
            Some(_) => self.moe_backward(),
            None => self.dense_backward(),
        }
    }

    /// Backward of a dense MLP, beside the tape: `dy` of the layer, `dh`, and in f32 what its activation's gradient is made
    /// of, seven tensors `[T, F]` where most are there, or the gradients by gate and up, joined, and joined in the compute
    /// type.
    fn dense_backward(&self) -> u64 {
        let f32_rows = self.rows * self.inter * F32;
        let activation = (7 * f32_rows).max(4 * f32_rows + self.gate_up());
        self.x() + self.h() + activation
    }

    /// Backward of the experts, beside the tape: `dy` of the layer, and the greatest of what follows: the rows' `dy` with
    /// down's matrices and `dh`; gate_up's matrices with `dxs` (`dgate_up` takes the place of `gate_up`); `dxs` with the
    /// sum over a token's experts and the router's part. An adapter gathers or makes its rows again before the matrices are there.
    fn moe_backward(&self) -> u64 {
        let down = self.y() + self.matrices(self.down_matrices, self.h()) + self.h();
        let gate_up = self.matrices(self.gate_up_matrices, self.y()) + self.y();
        let sums = self.y() + 2 * self.x() + self.routing();
        let adapter = match self.expert_adapters {
            true => self.y() + self.h(),
            false => 0,
        };
        self.x() + down.max(gate_up).max(sums).max(adapter)
    }

    /// Backward of attention, when the MLP's tape is gone: its own tape, `dmiddle`, `dout`, `delta`, `dqkv` before
    /// and after the rotation, and the gradients by the input.
    pub fn attention_backward(&self) -> u64 {
        self.attention_tape() + 3 * self.x() + self.out() + self.lse() + 2 * self.qkv()
    }

    /// The head: the picked rows and the normed ones, and the logits of a chunk with their gradient in the same
    /// memory; or the picked rows with the gradient by the normed ones and by themselves. A loss that asks for the logits themselves takes
    /// several times a chunk more.
    pub fn head(&self) -> u64 {
        let chunk = self.tokens.min(chunk_rows(self.vocab as usize) as u64);
        let logits = chunk * (self.vocab + self.hidden) * self.c;
        (2 * self.x() + logits).max(3 * self.x())
    }
}
