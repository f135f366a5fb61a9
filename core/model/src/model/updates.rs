//! The tensors of low-rank updates: their names as PEFT saves them, and their shapes.

use super::{LoraSettings, Targets};
use crate::tensors::{ExpertMatrix, Role, TensorList, TensorSpec};
use anyhow::{Context, Result};

/// The prefix of the key of every tensor that an adapter's file holds.
pub const PREFIX: &str = "base_model.model.";

/// The update of one target.
#[derive(Debug, Clone)]
pub struct Update {
    /// The linear module or the parameter of experts that is updated.
    pub target: String,
    /// The layer and the matrix, if it is one of experts.
    pub experts: Option<(usize, ExpertMatrix)>,
    /// The number of matrices that it updates.
    pub matrices: usize,
    /// A, which is multiplied first: `[R, I]`, of experts `[R E, I]`.
    pub a: UpdateTensor,
    /// B: `[O, R]`, of experts `[O, R E]`.
    pub b: UpdateTensor,
    /// DoRA's magnitude `[O]`.
    pub magnitude: Option<UpdateTensor>,
}

/// A tensor of an update.
#[derive(Debug, Clone)]
pub struct UpdateTensor {
    /// Its key in an adapter's file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Update {
    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &UpdateTensor> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }

    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        let counts = self.tensors().map(|tensor| {
            let sides = tensor.shape.iter().map(|&side| side as u64);
            sides.fold(1, u64::saturating_mul)
        });
        counts.fold(0, u64::saturating_add)
    }

    /// Its rank.
    pub fn rank(&self) -> usize {
        let matrices = self.matrices.max(1);
        self.a.shape.first().map_or(0, |rows| rows / matrices)
    }

    /// The last part of its target's name, of experts the last two.
    pub fn short_target(&self) -> &str {
        let parts = if self.experts.is_some() { 2 } else { 1 };
        let dots = self.target.rmatch_indices('.');
        let start = dots.map(|(at, _)| at + 1).nth(parts - 1).unwrap_or(0);
        &self.target[start..]
    }
}

/// The updates of these targets, in their order.
///
/// # Errors
/// The model does not have a target.
pub fn updates(
    list: &TensorList,
    targets: &Targets,
    settings: &LoraSettings,
) -> Result<Vec<Update>> {
    let linears = targets.linears.iter().map(|module| {
        let spec = list.get(&format!("{module}.weight"));
        let dims = spec.and_then(TensorSpec::dims);
        let dims = dims.with_context(|| format!("the model has no linear layer {module}"))?;
        let [a, b] = pair(module, settings.of(targets, module).rank, dims);
        let magnitude = settings.use_dora.then(|| UpdateTensor {
            name: magnitude_key(module),
            shape: vec![dims.1],
        });
        Ok(Update {
            target: module.clone(),
            experts: None,
            matrices: 1,
            a,
            b,
            magnitude,
        })
    });
    let experts = targets.experts.iter().map(|&(layer, matrix)| {
        let spec = list.weight(Some(layer), Role::Experts(matrix));
        let missing = || format!("the model has no experts {matrix:?} in layer {layer}");
        let spec = spec.with_context(missing)?;
        let module = expert_module(list, targets, layer, matrix).with_context(missing)?;
        let rank = settings.of(targets, &spec.name).rank;
        let ranks = rank.saturating_mul(spec.matrices());
        let [a, b] = pair(&module, ranks, spec.dims().with_context(missing)?);
        Ok(Update {
            target: spec.name.clone(),
            experts: Some((layer, matrix)),
            matrices: spec.matrices(),
            a,
            b,
            magnitude: None,
        })
    });
    linears.chain(experts).collect()
}

fn pair(module: &str, rank: usize, (inputs, outputs): (usize, usize)) -> [UpdateTensor; 2] {
    let [a, b] = pair_keys(module);
    [(a, [rank, inputs]), (b, [outputs, rank])].map(|(name, shape)| UpdateTensor {
        name,
        shape: shape.to_vec(),
    })
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
    let is_around = |other: &&TensorSpec| {
        other.module() == spec.module()
            && other
                .expert_matrix()
                .is_some_and(|outer| outer > matrix && targets.experts.contains(&(layer, outer)))
    };
    let around = list.iter().filter(is_around).count();
    Some(format!("{}{}", spec.module(), ".base_layer".repeat(around)))
}
