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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::testing::{dense, tiny};

    fn blocks(list: &TensorList) -> Vec<(String, Block)> {
        let modules = list.modules().iter();
        let found = modules.filter_map(|m| Some((m.path.clone(), list.block(&m.path)?)));
        found.collect()
    }

    #[test]
    fn a_layer_its_mlp_and_its_experts_are_blocks() {
        let found = blocks(&tiny().tensors());
        let of = |layer: usize| {
            let below = |name: &str| format!("model.layers.{layer}{name}");
            [
                (below(""), LayerKind::Decoder),
                (below(".mlp"), LayerKind::Mlp),
                (below(".mlp.experts"), LayerKind::Experts),
            ]
            .map(|(path, kind)| (path, Block { layer, kind }))
        };
        assert_eq!(found, (0..4).flat_map(of).collect::<Vec<_>>());
        assert!(tiny().tensors().experts(3).is_some());
    }

    #[test]
    fn a_dense_layer_has_no_experts() {
        let list = dense(true).tensors();
        let kinds: Vec<LayerKind> = blocks(&list).iter().map(|(_, block)| block.kind).collect();
        assert_eq!(kinds, [LayerKind::Decoder, LayerKind::Mlp].repeat(2));
        assert_eq!(list.experts(0), None);
    }
}
