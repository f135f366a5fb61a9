//! What a model consists of: the one list of its tensors, each with its name, its role, its shape and the forms in which a
//! checkpoint may hold it. A family makes the list from an architecture; loading, synthetic weights, adapters, merging,
//! export, tables, the memory plan and the counts of operations are derived from it.

mod blocks;
mod file_form;
mod list;
mod role;

pub use blocks::Block;
pub use file_form::{FileForm, FileTensor};
pub use list::{LayerTensors, Module, TensorList};
pub use role::{ExpertMatrix, ModuleKind, Part, Role};

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in a checkpoint that holds plain numbers: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The layer that it is in, unless it is before or behind all layers.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: Role,
    /// Whether it is the weight or the bias.
    pub part: Part,
    /// Its shape. A matrix is `[outputs, inputs]`, the matrices of experts are `[experts, inputs, outputs]`.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The module that it belongs to: its name without the last part.
    pub fn module(&self) -> &str {
        self.name
            .rsplit_once('.')
            .map_or(self.name.as_str(), |(module, _)| module)
    }

    /// The number of its elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The numbers of inputs and of outputs of a matrix, or of each expert's matrix.
    pub fn dims(&self) -> Option<(usize, usize)> {
        match (self.part, self.shape.as_slice()) {
            (Part::Weight, &[_, inputs, outputs]) => Some((inputs, outputs)),
            (Part::Weight, &[outputs, inputs]) => Some((inputs, outputs)),
            _ => None,
        }
    }

    /// The number of matrices in it: one for each expert, or one.
    pub fn matrices(&self) -> usize {
        match self.shape.as_slice() {
            &[experts, _, _] => experts,
            _ => 1,
        }
    }

    /// Whether it is one of the large matrices of which a sharded base keeps a part on each rank.
    pub fn is_shardable(&self) -> bool {
        let large = matches!(
            self.role.module_kind(),
            ModuleKind::Linear | ModuleKind::Experts | ModuleKind::Head
        );
        large && self.part == Part::Weight
    }

    /// Which matrix of the experts it is, if it is one.
    pub fn expert_matrix(&self) -> Option<ExpertMatrix> {
        match (self.role, self.part) {
            (Role::Experts(matrix), Part::Weight) => Some(matrix),
            _ => None,
        }
    }
}
