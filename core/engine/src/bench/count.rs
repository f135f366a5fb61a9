//! Counts the floating-point operations of a training step from shapes. A multiplication and an addition are two.
//!
//! The count is of the operations that the mathematics needs, not of those that the kernels do. A frozen matrix needs one
//! product forward, and one for the gradient of its input. Attention needs two products over the visible pairs of tokens
//! forward, and five backward. A low-rank update needs two thin products forward, and four backward. The output head needs
//! only the supervised tokens. Operations that are small beside the matrices (norms, activations, softmax, optimizer) are
//! left out. Layers that keep only their input run forward again, up to the experts' activation; that is counted
//! separately, because it makes no progress.

use apus_model::families::{LayerSpec, ModelConfig};
use apus_model::model::CausalLm;
use apus_model::nn::{DecoderLayer, ExpertLinear, ExpertWeight, Linear};
use apus_model::ops::Heads;
use apus_model::tensors::{ExpertMatrix, Role, TensorList};
use std::ops::{Add, AddAssign};

/// Numbers of operations by group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flops {
    /// Products with the matrices of linear layers: attention, router, dense MLPs.
    pub projections: u64,
    /// Products with the experts' matrices.
    pub experts: u64,
    /// Attention itself.
    pub attention: u64,
    /// Output head.
    pub head: u64,
    /// Low-rank updates.
    pub lora: u64,
}

impl Flops {
    /// Their sum.
    pub fn total(&self) -> u64 {
        self.projections + self.experts + self.attention + self.head + self.lora
    }
}

impl Add for Flops {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            projections: self.projections + other.projections,
            experts: self.experts + other.experts,
            attention: self.attention + other.attention,
            head: self.head + other.head,
            lora: self.lora + other.lora,
        }
    }
}

impl AddAssign for Flops {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Operations of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Forward and backward.
    pub model: Flops,
    /// Forward again, in layers that keep only their input: all but the last product of the MLP.
    pub again: Flops,
}

/// The numbers of trained parameters in a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trained {
    /// Low-rank updates of linear layers.
    pub lora: u64,
    /// Low-rank updates of experts, all experts together.
    pub expert_lora: u64,
    /// Whole linear layers.
    pub linears: u64,
    /// Whole experts, all experts together.
    pub experts: u64,
}

/// The inputs of the count.
#[derive(Debug, Clone)]
pub struct Work<'a> {
    /// Shape of the model.
    pub config: &'a ModelConfig,
    /// What is trained in each layer.
    pub trained: &'a [Trained],
    /// Whether the output head is trained.
    pub head_trained: bool,
    /// Last layers that keep their tape.
    pub kept: usize,
    /// Lengths of the sequences.
    pub lengths: &'a [usize],
    /// Supervised tokens.
    pub targets: usize,
}

impl Work<'_> {
    /// Counts the operations of a step.
    pub fn count(&self) -> Count {
        let c = &self.config.architecture;
        let mut count = Count::default();
        let matrices = layer_matrices(&self.config.tensors());
        let layers = c.layers.iter().zip(matrices).zip(self.trained);
        for (index, ((layer, matrices), trained)) in layers.enumerate() {
            let forward = self.layer_forward(layer, &matrices, trained);
            count.model += forward + self.layer_backward(layer, trained, &forward);
            if index + self.kept < c.layers.len() {
                count.again += Flops {
                    projections: 2 * (matrices.linears - matrices.dense_down) * self.tokens(),
                    experts: self.experts(layer, matrices.gate_up),
                    ..forward
                };
            }
        }
        let head = 2 * (c.vocab_size * c.hidden_size * self.targets) as u64;
        count.model.head = head * if self.head_trained { 3 } else { 2 };
        count
    }

    fn tokens(&self) -> u64 {
        self.lengths.iter().sum::<usize>() as u64
    }

    /// Products with matrices of experts that have this many parameters in one expert.
    fn experts(&self, layer: &LayerSpec, parameters: u64) -> u64 {
        2 * parameters * layer.mlp.rows_per_token() as u64 * self.tokens()
    }

    fn layer_forward(&self, layer: &LayerSpec, matrices: &Matrices, trained: &Trained) -> Flops {
        let tokens = self.tokens();
        let attention = &layer.attention;
        Flops {
            projections: 2 * matrices.linears * tokens,
            experts: self.experts(layer, matrices.gate_up + matrices.down),
            attention: attention_forward(attention.heads, self.lengths, attention.window),
            head: 0,
            lora: 2 * trained.lora * tokens + 2 * active(layer, trained.expert_lora) * tokens,
        }
    }

    /// The gradient of the input costs as much as the forward product, and that of a trained matrix as much again.
    fn layer_backward(&self, layer: &LayerSpec, trained: &Trained, forward: &Flops) -> Flops {
        let tokens = self.tokens();
        Flops {
            projections: forward.projections + 2 * trained.linears * tokens,
            experts: forward.experts + 2 * active(layer, trained.experts) * tokens,
            attention: attention_backward(forward.attention),
            head: 0,
            lora: 2 * forward.lora,
        }
    }
}

/// How many of the parameters of all experts a token uses.
fn active(layer: &LayerSpec, parameters: u64) -> u64 {
    match layer.mlp.mixture() {
        Some(mixture) => parameters * mixture.experts_per_token as u64 / mixture.experts as u64,
        None => parameters,
    }
}

/// Parameters of the matrices of a layer.
#[derive(Debug, Clone, Copy, Default)]
struct Matrices {
    /// Of linear layers: attention, router, dense MLP.
    linears: u64,
    /// Of those, the last one of a dense MLP, which a layer that runs again does not need.
    dense_down: u64,
    /// Of one expert, before its activation.
    gate_up: u64,
    /// Of one expert, behind its activation.
    down: u64,
}

/// The matrices of each layer.
fn layer_matrices(list: &TensorList) -> Vec<Matrices> {
    let mut layers = vec![Matrices::default(); list.layers()];
    for spec in list.iter().filter(|spec| spec.dims().is_some()) {
        let Some(layer) = spec.layer else {
            continue;
        };
        let of_one = (spec.elements() / spec.matrices()) as u64;
        let found = &mut layers[layer];
        match spec.role {
            Role::Experts(ExpertMatrix::GateUp) => found.gate_up += of_one,
            Role::Experts(ExpertMatrix::Down) => found.down += of_one,
            Role::Down => {
                found.linears += of_one;
                found.dense_down += of_one;
            }
            _ => found.linears += of_one,
        }
    }
    layers
}

/// Operations of attention over sequences of these lengths: scores and weighted sum over visible pairs.
pub fn attention_forward(heads: Heads, lengths: &[usize], window: Option<usize>) -> u64 {
    let pairs: u64 = lengths.iter().map(|&length| pairs(length, window)).sum();
    2 * 2 * (heads.q * heads.dim) as u64 * pairs
}

/// The operations of attention's backward pass from those of its forward pass: five products to two.
pub fn attention_backward(forward: u64) -> u64 {
    forward / 2 * 5
}

/// Pairs of a query and a key that it sees.
fn pairs(length: usize, window: Option<usize>) -> u64 {
    let (n, w) = (length as u64, window.unwrap_or(length).min(length) as u64);
    w * (w + 1) / 2 + (n - w) * w
}

/// What is trained in each layer of a model.
pub fn trained(model: &CausalLm) -> Vec<Trained> {
    model.decoder().layers.iter().map(layer_trained).collect()
}

fn layer_trained(layer: &DecoderLayer) -> Trained {
    let mut found = Trained::default();
    let router = layer.mlp.mixture().map(|mixture| &mixture.router);
    for linear in layer.linears().chain(router) {
        found.lora += linear_lora(linear);
        found.linears += linear.weight.param().map_or(0, |p| size(&p.value()));
    }
    for expert in layer.mlp.experts() {
        found.expert_lora += expert_lora(expert);
        if let ExpertWeight::Dense(weight) = &expert.matrix {
            found.experts += weight.param().map_or(0, |p| size(&p.value()));
        }
    }
    found
}

fn linear_lora(linear: &Linear) -> u64 {
    let lora = linear.lora.as_ref();
    lora.map_or(0, |lora| size(&lora.a.value()) + size(&lora.b.value()))
}

fn expert_lora(expert: &ExpertLinear) -> u64 {
    let lora = expert.lora.as_ref();
    lora.map_or(0, |lora| size(&lora.a.value()) + size(&lora.b.value()))
}

fn size(tensor: &candle_core::Tensor) -> u64 {
    tensor.elem_count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::families::{DenseSpec, Family, MlpSpec, decoder};
    use apus_model::synthetic;

    fn count(lengths: &[usize], targets: usize, kept: usize, trained: Trained) -> Count {
        let config = synthetic::config("gpt-oss-20b").unwrap();
        let work = Work {
            config: &config,
            trained: &[trained; 24],
            head_trained: false,
            kept,
            lengths,
            targets,
        };
        work.count()
    }

    #[test]
    fn the_20b_uses_3_6_billion_parameters_a_token() {
        // By hand: q and o 2880 x 4096, k and v 2880 x 512, router 2880 x 32, four experts of
        // 2880 x 5760 and 2880 x 2880, head 201088 x 2880.
        let layer = 2 * 11_796_480 + 2 * 1_474_560 + 92_160 + 4 * (16_588_800 + 8_294_400);
        let parameters: u64 = 24 * layer + 579_133_440;
        assert_eq!(parameters, 3_607_142_400);
        let found = count(&[1], 1, 24, Trained::default());
        let matrices = found.model.total() - found.model.attention;
        assert_eq!(matrices, 4 * parameters);
        assert_eq!(found.again, Flops::default());
    }

    #[test]
    fn attention_counts_what_is_visible() {
        assert_eq!(pairs(4, None), 10);
        assert_eq!(pairs(4, Some(2)), 7);
        assert_eq!(pairs(3, Some(128)), 6);
        // 12 sliding layers of window 128 and 12 full ones; a pair costs 4 x 4096 forward.
        let found = count(&[1000, 10], 0, 24, Trained::default());
        let (full, sliding) = (500_500 + 55, 128 * 129 / 2 + 872 * 128 + 55);
        let forward = 12 * 4 * 4096 * (full + sliding);
        assert_eq!(found.model.attention, forward + forward / 2 * 5);
        assert_eq!(found.model.head, 0);
    }

    #[test]
    fn updates_and_whole_matrices_cost_their_gradients() {
        // Rank 8 on q_proj, and on the gate_up of all 32 experts, of which a token uses 4.
        let trained = Trained {
            lora: 8 * (2880 + 4096),
            expert_lora: 32 * 8 * (2880 + 5760),
            ..Trained::default()
        };
        let used = 8 * (2880 + 4096) + 4 * 8 * (2880 + 5760);
        let found = count(&[100], 100, 24, trained);
        assert_eq!(found.model.lora, 24 * 6 * used * 100);
        let whole = Trained {
            linears: 1000,
            experts: 64,
            ..Trained::default()
        };
        let (plain, found) = (
            count(&[100], 0, 24, Trained::default()).model,
            count(&[100], 0, 24, whole).model,
        );
        assert_eq!(found.projections - plain.projections, 24 * 2 * 1000 * 100);
        assert_eq!(found.experts - plain.experts, 24 * 2 * 8 * 100);
    }

    /// With one dense MLP in place of experts, as large as one of them, by hand: q and o 2880 x 4096, k and v 2880 x 512, three
    /// matrices of 2880 x 2880, of which the last does not run again.
    #[test]
    fn a_dense_mlp_is_linear_layers() {
        let mut raw = synthetic::config("gpt-oss-20b?num_hidden_layers=1").unwrap();
        let family: &'static Family = &Family {
            model_type: "dense",
            architecture: |_| anyhow::bail!("it is made without config.json"),
            tensors: |architecture| decoder::tensors(architecture, decoder::dense_mlp),
            quantization: None,
            gguf: None,
        };
        raw.family = family;
        let layer = &mut raw.architecture.layers[0];
        layer.mlp = MlpSpec::Dense(DenseSpec {
            intermediate_size: 2880,
            activation: layer.mlp.activation(),
            bias: false,
        });
        let work = Work {
            config: &raw,
            trained: &[Trained::default()],
            head_trained: false,
            kept: 0,
            lengths: &[10],
            targets: 0,
        };
        let found = work.count();
        let (attention, matrix) = (2 * 2880 * (4096 + 512), 2880 * 2880);
        let forward = 2 * (attention + 3 * matrix) * 10;
        assert_eq!(found.model.projections, 2 * forward);
        assert_eq!(found.again.projections, forward - 2 * matrix * 10);
        assert_eq!((found.model.experts, found.again.experts), (0, 0));
    }

    #[test]
    fn layers_that_keep_their_input_run_again() {
        let (all, none) = (
            count(&[50], 50, 24, Trained::default()),
            count(&[50], 50, 0, Trained::default()),
        );
        assert_eq!(all.model, none.model);
        assert_eq!(3 * none.again.experts, none.model.experts);
        assert_eq!(7 * none.again.attention, 2 * none.model.attention);
        assert_eq!(none.again.head, 0);
        let two = count(&[50], 50, 22, Trained::default());
        assert_eq!(12 * two.again.total(), none.again.total());
    }
}
