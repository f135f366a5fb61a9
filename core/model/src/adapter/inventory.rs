//! The modules of a gpt-oss model as transformers' `named_modules` lists them.
//!
//! PEFT chooses its targets among these names, so the resolver must see the same list.

use crate::model::{Config, ExpertMatrix};

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
pub fn modules(config: &Config) -> Vec<Module> {
    let mut list = Vec::new();
    let mut add = |path: String, kind| list.push(Module { path, kind });
    add("model".into(), ModuleKind::Container);
    add("model.embed_tokens".into(), ModuleKind::Embedding);
    add("model.layers".into(), ModuleKind::Container);
    for layer in 0..config.num_hidden_layers {
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
pub fn parameters(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (h, f, e) = (
        config.hidden_size,
        config.intermediate_size,
        config.num_local_experts,
    );
    let mut list = Vec::new();
    for Module { path, kind } in modules(config) {
        let own: Vec<(&str, Vec<usize>)> = match kind {
            ModuleKind::Linear | ModuleKind::Router => {
                let (inputs, outputs) = linear_dims(config, &path);
                vec![("weight", vec![outputs, inputs]), ("bias", vec![outputs])]
            }
            ModuleKind::Head | ModuleKind::Embedding => {
                vec![("weight", vec![config.vocab_size, h])]
            }
            ModuleKind::Norm => vec![("weight", vec![h])],
            ModuleKind::Experts => vec![
                ("gate_up_proj", vec![e, h, 2 * f]),
                ("gate_up_proj_bias", vec![e, 2 * f]),
                ("down_proj", vec![e, f, h]),
                ("down_proj_bias", vec![e, h]),
            ],
            ModuleKind::Container if path.ends_with(".self_attn") => {
                vec![("sinks", vec![config.num_attention_heads])]
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

/// The number of inputs and outputs of a linear module.
pub fn linear_dims(config: &Config, module: &str) -> (usize, usize) {
    let (hidden, q, kv) = (
        config.hidden_size,
        config.attention_width(),
        config.kv_width(),
    );
    match module.rsplit_once('.').map(|(_, name)| name) {
        Some("q_proj") => (hidden, q),
        Some("o_proj") => (q, hidden),
        Some("k_proj" | "v_proj") => (hidden, kv),
        Some("router") => (hidden, config.num_local_experts),
        _ => (hidden, config.vocab_size),
    }
}

/// The number of inputs and outputs of an expert matrix.
pub fn expert_dims(config: &Config, matrix: ExpertMatrix) -> (usize, usize) {
    let (hidden, inter) = (config.hidden_size, config.intermediate_size);
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
