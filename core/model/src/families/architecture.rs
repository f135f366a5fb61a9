//! What a decoder is made of, in numbers and choices. Families read it from config.json; blocks are built from it, memory
//! and operations are counted by it, and nobody asks which family it came from.

use crate::ops::Heads;
use crate::ops::swiglu::Activation;
use anyhow::{Result, ensure};

/// A bound far above any existing model, so that products of sizes cannot overflow before anything is allocated.
const MOST_PARAMETERS: u128 = 1 << 46;

/// A decoder: an embedding, layers one after another, a final norm and an output head.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The number of rows of the embedding.
    pub vocab_size: usize,
    /// The greatest length of a sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the embedding is the output head, too.
    pub tie_word_embeddings: bool,
    /// The layers from the first to the last; there is at least one.
    pub layers: Vec<LayerSpec>,
}

/// A decoder layer: `x + attention(norm(x))`, and then the same with the MLP.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Its attention.
    pub attention: AttentionSpec,
    /// Its MLP.
    pub mlp: MlpSpec,
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// The number and size of heads.
    pub heads: Heads,
    /// The number of keys that a query sees, its own included, if there is a sliding window.
    pub window: Option<usize>,
    /// Whether each query head has a sink, a logit that takes part in its softmax.
    pub sinks: bool,
    /// Whether queries and keys are normed before the rotation, each head by itself.
    pub qk_norms: bool,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection of the output has a bias.
    pub output_bias: bool,
}

/// What follows attention in a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// One MLP for all tokens.
    Dense(DenseSpec),
    /// Several MLPs, of which a router chooses some for each token.
    Mixture(MixtureSpec),
}

/// An MLP with a gate: `down(activation(gate(x), up(x)))`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseSpec {
    /// Its inner width.
    pub intermediate_size: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether its matrices have biases.
    pub bias: bool,
}

/// A mixture of experts. The weights of a token's experts are a softmax over their logits alone.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureSpec {
    /// The number of experts.
    pub experts: usize,
    /// The number of experts that a token uses.
    pub experts_per_token: usize,
    /// The inner width of an expert.
    pub intermediate_size: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether the experts' matrices have biases.
    pub bias: bool,
    /// Whether the router has a bias.
    pub router_bias: bool,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// YaRN, or `None` for plain rotation.
    pub yarn: Option<Yarn>,
}

/// Parameters of YaRN (Peng et al., <https://arxiv.org/abs/2309.00071>).
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// By what factor sequences may be longer than in the original training.
    pub factor: f64,
    /// The number of rotations above which nothing is interpolated.
    pub beta_fast: f64,
    /// The number of rotations below which everything is interpolated.
    pub beta_slow: f64,
    /// The length of sequences in the original training.
    pub original: f64,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

impl Architecture {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// They do not, or they make a model larger than there can be; the error names them as config.json does.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.layers.is_empty(), "num_hidden_layers is 0");
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attention.check()?;
            layer.mlp.check()?;
            let [first, own] = [&self.layers[0], layer].map(|l| l.attention.heads.dim);
            ensure!(
                own == first,
                "head_dim is {own} in layer {index} and {first} in layer 0; all layers share the angles of the rotary embedding"
            );
        }
        ensure!(
            self.parameters() <= MOST_PARAMETERS,
            "its sizes make a model of {:.1e} parameters, more than there can be: num_hidden_layers {}, hidden_size {}, \
             {}, vocab_size {}",
            self.parameters() as f64,
            self.layers.len(),
            self.hidden_size,
            self.widest().mlp.sizes(),
            self.vocab_size
        );
        Ok(())
    }

    /// The approximate number of parameters.
    fn parameters(&self) -> u128 {
        let layers: u128 = self.layers.iter().map(LayerSpec::columns).sum();
        self.hidden_size as u128 * (2 * self.vocab_size as u128 + layers)
    }

    /// The layer with the most parameters.
    fn widest(&self) -> &LayerSpec {
        let layers = self.layers.iter();
        layers.fold(&self.layers[0], |widest, layer| {
            match layer.columns() > widest.columns() {
                true => layer,
                false => widest,
            }
        })
    }
}

impl LayerSpec {
    /// The number of vectors of the hidden size in the layer's matrices.
    fn columns(&self) -> u128 {
        let heads = 2 * (self.attention.width() + self.attention.kv_width());
        let experts = self.mlp.mixture().map_or(1, |mixture| mixture.experts);
        heads as u128 + 3 * experts as u128 * self.mlp.intermediate_size() as u128
    }
}

impl AttentionSpec {
    /// The width of all query heads together.
    pub fn width(&self) -> usize {
        self.heads.q * self.heads.dim
    }

    /// The width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.heads.kv * self.heads.dim
    }

    fn check(&self) -> Result<()> {
        let Heads { q, kv, dim } = self.heads;
        ensure!(
            q.is_multiple_of(kv),
            "num_attention_heads ({q}) is no multiple of num_key_value_heads ({kv})"
        );
        ensure!(dim.is_multiple_of(2), "head_dim ({dim}) is odd");
        Ok(())
    }
}

impl MlpSpec {
    /// The mixture, if it is one.
    pub fn mixture(&self) -> Option<&MixtureSpec> {
        match self {
            Self::Dense(_) => None,
            Self::Mixture(mixture) => Some(mixture),
        }
    }

    /// The inner width, of an expert if there are experts.
    pub fn intermediate_size(&self) -> usize {
        match self {
            Self::Dense(dense) => dense.intermediate_size,
            Self::Mixture(mixture) => mixture.intermediate_size,
        }
    }

    /// The activation.
    pub fn activation(&self) -> Activation {
        match self {
            Self::Dense(dense) => dense.activation,
            Self::Mixture(mixture) => mixture.activation,
        }
    }

    /// The number of inner rows that a token makes: one for each of its experts.
    pub fn rows_per_token(&self) -> usize {
        self.mixture()
            .map_or(1, |mixture| mixture.experts_per_token)
    }

    fn check(&self) -> Result<()> {
        if let Self::Mixture(mixture) = self {
            ensure!(
                mixture.experts_per_token <= mixture.experts,
                "num_experts_per_tok ({}) exceeds num_local_experts ({})",
                mixture.experts_per_token,
                mixture.experts
            );
        }
        Ok(())
    }

    /// Its sizes for a message.
    fn sizes(&self) -> String {
        let width = format!("intermediate_size {}", self.intermediate_size());
        match self {
            Self::Dense(_) => width,
            Self::Mixture(mixture) => format!("{width}, num_local_experts {}", mixture.experts),
        }
    }
}
