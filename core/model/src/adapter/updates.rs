//! The tensors of low-rank updates: their names as PEFT saves them, and their shapes.

use super::file::PREFIX;
use super::inventory::{expert_count, expert_dims, linear_dims};
use crate::families::ModelConfig;
use crate::model::{ExpertMatrix, Targets};

/// The update of one target.
pub struct Update {
    /// The linear module or the parameter of experts that is updated.
    pub target: String,
    /// Names and shapes of its tensors: A, B and, for DoRA, the magnitude.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Update {
    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        let shapes = self.tensors.iter().map(|(_, shape)| shape);
        let sizes = shapes.map(|shape| shape.iter().map(|&side| side as u64));
        let counts = sizes.map(|sides| sides.fold(1, u64::saturating_mul));
        counts.fold(0, u64::saturating_add)
    }
}

/// The updates of these targets, in their order.
pub fn updates(model: &ModelConfig, targets: &Targets, rank: usize, use_dora: bool) -> Vec<Update> {
    let pair = |module: &str, rank: usize, (inputs, outputs): (usize, usize)| {
        vec![
            (
                format!("{PREFIX}{module}.lora_A.weight"),
                vec![rank, inputs],
            ),
            (
                format!("{PREFIX}{module}.lora_B.weight"),
                vec![outputs, rank],
            ),
        ]
    };
    let linears = targets.linears.iter().map(|module| {
        let dims = linear_dims(model, module);
        let mut tensors = pair(module, rank, dims);
        if use_dora {
            let name = format!("{PREFIX}{module}.lora_magnitude_vector");
            tensors.push((name, vec![dims.1]));
        }
        Update {
            target: module.clone(),
            tensors,
        }
    });
    let experts = targets.experts.iter().map(|&(layer, matrix)| {
        let part = match matrix {
            ExpertMatrix::GateUp => "gate_up_proj",
            ExpertMatrix::Down => "down_proj",
        };
        let ranks = rank.saturating_mul(expert_count(model));
        let module = expert_module(targets, layer, matrix);
        Update {
            target: format!("model.layers.{layer}.mlp.experts.{part}"),
            tensors: pair(&module, ranks, expert_dims(model, matrix)),
        }
    });
    linears.chain(experts).collect()
}

/// The module under which PEFT saves an expert matrix: where both are targets, `gate_up_proj` is the inner one.
pub fn expert_module(targets: &Targets, layer: usize, matrix: ExpertMatrix) -> String {
    let both = [ExpertMatrix::GateUp, ExpertMatrix::Down]
        .iter()
        .all(|m| targets.experts.contains(&(layer, *m)));
    let inner = match both && matrix == ExpertMatrix::GateUp {
        true => ".base_layer",
        false => "",
    };
    format!("model.layers.{layer}.mlp.experts{inner}")
}
