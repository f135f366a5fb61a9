//! The modules of a gpt-oss model as transformers' `named_modules` lists them.
//!
//! PEFT chooses its targets among these names, so the resolver must see the same list.

use crate::model::Config;

/// What a module is to an adapter.
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

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// What it is.
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

/// Names of all parameters with their number of dimensions.
pub fn parameters(config: &Config) -> Vec<(String, usize)> {
    let mut list = Vec::new();
    for Module { path, kind } in modules(config) {
        let own: &[(&str, usize)] = match kind {
            ModuleKind::Linear | ModuleKind::Router => &[("weight", 2), ("bias", 1)],
            ModuleKind::Head | ModuleKind::Embedding => &[("weight", 2)],
            ModuleKind::Norm => &[("weight", 1)],
            ModuleKind::Experts => &[
                ("gate_up_proj", 3),
                ("gate_up_proj_bias", 2),
                ("down_proj", 3),
                ("down_proj_bias", 2),
            ],
            ModuleKind::Container if path.ends_with(".self_attn") => &[("sinks", 1)],
            ModuleKind::Container => &[],
        };
        list.extend(
            own.iter()
                .map(|(name, rank)| (format!("{path}.{name}"), *rank)),
        );
    }
    list
}

/// Whether `path` is `name` or ends with `.name`, PEFT's rule for names in lists.
pub fn is_suffix(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
