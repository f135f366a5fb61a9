//! The blocks of a decoder that a tuner can be added to, which have no tensors of their own: a layer, its MLP, its experts.

use super::{ModuleKind, Role, TensorList};
use apus_sdk::LayerKind;

/// A block, by the layer that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The layer.
    pub layer: usize,
    /// What it computes.
    pub kind: LayerKind,
}

impl TensorList {
    /// The block at a path; `None` if the module there is none.
    pub fn block(&self, path: &str) -> Option<Block> {
        let module = self.modules().iter().find(|module| module.path == path)?;
        let inside = format!("{path}.");
        let layer = self.layer_at(path).or_else(|| self.layer_of(path))?;
        let mlp = || {
            let first = [Role::Router, Role::Gate].into_iter();
            let mut first = first.filter_map(|role| self.weight(Some(layer), role));
            let parent = |name: &str| name.rsplit_once('.').map(|(parent, _)| parent.to_owned());
            first.any(|spec| parent(spec.module()).as_deref() == Some(path))
        };
        let kind = match module.kind {
            ModuleKind::Experts => LayerKind::Experts,
            ModuleKind::Container if self.layer_at(path).is_some() => LayerKind::Decoder,
            ModuleKind::Container if mlp() => LayerKind::Mlp,
            _ => return None,
        };
        let holds = self.iter().any(|spec| spec.name.starts_with(&inside));
        holds.then_some(Block { layer, kind })
    }

    /// The number of experts of a layer, if it has any.
    pub fn experts(&self, layer: usize) -> Option<usize> {
        let matrices = self.expert_matrices();
        let mut own = matrices.filter(|(of, _, _)| *of == layer);
        own.next()?.2.shape.first().copied()
    }

    fn layer_at(&self, path: &str) -> Option<usize> {
        self.layer_paths().iter().position(|layer| layer == path)
    }
}
