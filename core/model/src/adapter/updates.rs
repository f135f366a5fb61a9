//! The tensors of low-rank updates: their names as PEFT saves them, and their shapes.

use super::file::PREFIX;
use crate::model::Targets;
use crate::tensors::{ExpertMatrix, Part, Role, TensorList, TensorSpec};

/// The update of one target.
pub struct Update {
    /// The linear module or the parameter of experts that is updated.
    pub target: String,
    /// Whether it is one of experts.
    pub of_experts: bool,
    /// Names and shapes of its tensors: A, B and, for DoRA, the magnitude.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Update {
    /// The last part of its target's name, of experts the last two.
    pub fn short_target(&self) -> &str {
        let parts = if self.of_experts { 2 } else { 1 };
        let dots = self.target.rmatch_indices('.');
        let start = dots.map(|(at, _)| at + 1).nth(parts - 1).unwrap_or(0);
        &self.target[start..]
    }

    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        let shapes = self.tensors.iter().map(|(_, shape)| shape);
        let sizes = shapes.map(|shape| shape.iter().map(|&side| side as u64));
        let counts = sizes.map(|sides| sides.fold(1, u64::saturating_mul));
        counts.fold(0, u64::saturating_add)
    }
}

/// The updates of these targets, in their order.
pub fn updates(list: &TensorList, targets: &Targets, rank: usize, use_dora: bool) -> Vec<Update> {
    let pair = |module: &str, rank: usize, (inputs, outputs): (usize, usize)| {
        let [a, b] = pair_keys(module);
        vec![(a, vec![rank, inputs]), (b, vec![outputs, rank])]
    };
    let linears = targets.linears.iter().filter_map(|module| {
        let dims = list.get(&format!("{module}.weight"))?.dims()?;
        let mut tensors = pair(module, rank, dims);
        if use_dora {
            tensors.push((magnitude_key(module), vec![dims.1]));
        }
        Some(Update {
            target: module.clone(),
            of_experts: false,
            tensors,
        })
    });
    let experts = targets.experts.iter().filter_map(|&(layer, matrix)| {
        let spec = list.weight(Some(layer), Role::Experts(matrix))?;
        let ranks = rank.saturating_mul(spec.shape[0]);
        let module = expert_module(list, targets, layer, matrix)?;
        Some(Update {
            target: spec.name.clone(),
            of_experts: true,
            tensors: pair(&module, ranks, spec.dims()?),
        })
    });
    linears.chain(experts).collect()
}

/// The keys of A and B of a module.
pub fn pair_keys(module: &str) -> [String; 2] {
    ["A", "B"].map(|matrix| format!("{PREFIX}{module}.lora_{matrix}.weight"))
}

/// The key of DoRA's magnitude of a module.
pub fn magnitude_key(module: &str) -> String {
    format!("{PREFIX}{module}.lora_magnitude_vector")
}

/// The module under which PEFT saves a matrix of experts. Where several parameters of a module are targets, PEFT wraps one
/// around the other, the first one innermost.
pub fn expert_module(
    list: &TensorList,
    targets: &Targets,
    layer: usize,
    matrix: ExpertMatrix,
) -> Option<String> {
    let spec = list.weight(Some(layer), Role::Experts(matrix))?;
    let is_around = |other: &&TensorSpec| match (other.role, other.part) {
        (Role::Experts(outer), Part::Weight) => {
            other.module() == spec.module()
                && outer > matrix
                && targets.experts.contains(&(layer, outer))
        }
        _ => false,
    };
    let around = list.iter().filter(is_around).count();
    Some(format!("{}{}", spec.module(), ".base_layer".repeat(around)))
}
