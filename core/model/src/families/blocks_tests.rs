//! The blocks of models of the families.

use super::testing::{dense, tiny};
use crate::tensors::{Block, TensorList};
use apus_sdk::LayerKind;

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
