//! The modules of a gpt-oss model as transformers' `named_modules` lists them.
//!
//! PEFT chooses its targets among these names, so the resolver must see the same list.

use crate::families::{Architecture, ModelConfig};
use crate::model::ExpertMatrix;

/// The kinds of modules, as far as adapters treat them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// `nn.Linear`: may carry an update.
    Linear,
    /// The output head, an `nn.Linear` that `all-linear` leaves out.
    Head,
    /// `GptOssTopKRouter`, a bare weight and bias.
    Router,
    /// `GptOssExperts`, the 3-D parameters.
    Experts,
    /// An RMS norm.
    Norm,
    /// The token embedding.
    Embedding,
    /// Holds other modules, and perhaps parameters of its own.
    Container,
}

/// A module of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Its kind.
    pub kind: ModuleKind,
}

/// All modules, parents before children.
pub fn modules(config: &ModelConfig) -> Vec<Module> {
    let mut list = Vec::new();
    let mut add = |path: String, kind| list.push(Module { path, kind });
    add("model".into(), ModuleKind::Container);
    add("model.embed_tokens".into(), ModuleKind::Embedding);
    add("model.layers".into(), ModuleKind::Container);
    for layer in 0..config.architecture.layers.len() {
        let path = format!("model.layers.{layer}");
        add(path.clone(), ModuleKind::Container);
        add(format!("{path}.self_attn"), ModuleKind::Container);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(format!("{path}.self_attn.{name}"), ModuleKind::Linear);
        }
        add(format!("{path}.mlp"), ModuleKind::Container);
        add(format!("{path}.mlp.router"), ModuleKind::Router);
        add(format!("{path}.mlp.experts"), ModuleKind::Experts);
        add(format!("{path}.input_layernorm"), ModuleKind::Norm);
        add(format!("{path}.post_attention_layernorm"), ModuleKind::Norm);
    }
    add("model.norm".into(), ModuleKind::Norm);
    add("model.rotary_emb".into(), ModuleKind::Container);
    add("lm_head".into(), ModuleKind::Head);
    list
}

/// The names of all parameters with their shapes.
pub fn parameters(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (h, (e, f)) = (config.architecture.hidden_size, experts(config));
    let mut list = Vec::new();
    for Module { path, kind } in modules(config) {
        let own: Vec<(&str, Vec<usize>)> = match kind {
            ModuleKind::Linear | ModuleKind::Router => {
                let (inputs, outputs) = linear_dims(config, &path);
                vec![("weight", vec![outputs, inputs]), ("bias", vec![outputs])]
            }
            ModuleKind::Head | ModuleKind::Embedding => {
                vec![("weight", vec![config.architecture.vocab_size, h])]
            }
            ModuleKind::Norm => vec![("weight", vec![h])],
            ModuleKind::Experts => vec![
                ("gate_up_proj", vec![e, h, 2 * f]),
                ("gate_up_proj_bias", vec![e, 2 * f]),
                ("down_proj", vec![e, f, h]),
                ("down_proj_bias", vec![e, h]),
            ],
            ModuleKind::Container if path.ends_with(".self_attn") => {
                vec![(
                    "sinks",
                    vec![config.architecture.layers[0].attention.heads.q],
                )]
            }
            ModuleKind::Container => Vec::new(),
        };
        list.extend(
            own.into_iter()
                .map(|(name, shape)| (format!("{path}.{name}"), shape)),
        );
    }
    list
}

/// The number of experts in a layer, and their inner width.
fn experts(config: &ModelConfig) -> (usize, usize) {
    let mlp = &config.architecture.layers[0].mlp;
    let experts = mlp.mixture().map_or(0, |mixture| mixture.experts);
    (experts, mlp.intermediate_size())
}

/// The number of inputs and outputs of a linear module.
pub fn linear_dims(config: &ModelConfig, module: &str) -> (usize, usize) {
    let Architecture {
        hidden_size: hidden,
        vocab_size,
        ..
    } = config.architecture;
    let attention = &config.architecture.layers[0].attention;
    let (q, kv) = (attention.width(), attention.kv_width());
    match module.rsplit_once('.').map(|(_, name)| name) {
        Some("q_proj") => (hidden, q),
        Some("o_proj") => (q, hidden),
        Some("k_proj" | "v_proj") => (hidden, kv),
        Some("router") => (hidden, experts(config).0),
        _ => (hidden, vocab_size),
    }
}

/// The number of experts in a layer.
pub fn expert_count(config: &ModelConfig) -> usize {
    experts(config).0
}

/// The number of inputs and outputs of an expert matrix.
pub fn expert_dims(config: &ModelConfig, matrix: ExpertMatrix) -> (usize, usize) {
    let (hidden, (_, inter)) = (config.architecture.hidden_size, experts(config));
    match matrix {
        ExpertMatrix::GateUp => (hidden, 2 * inter),
        ExpertMatrix::Down => (inter, hidden),
    }
}

/// Whether `path` is `name` or ends with `.name`, PEFT's rule for names in lists.
pub fn is_suffix(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
