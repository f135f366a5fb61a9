//! The list, with the tree of modules that it makes.

use super::{ExpertMatrix, ModuleKind, Part, Role, TensorSpec};
use std::collections::HashMap;

/// The tensors of a model in the order of transformers' `named_parameters`, and its modules in that of `named_modules`.
#[derive(Debug, Clone, Default)]
pub struct TensorList {
    tensors: Vec<TensorSpec>,
    modules: Vec<Module>,
    /// The paths of the layers.
    layers: Vec<String>,
    /// Where a tensor stands, by its name.
    names: HashMap<String, usize>,
    /// Where a tensor stands, by its layer, role and part.
    roles: HashMap<(Option<usize>, Role, Part), usize>,
}

/// A module of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Its kind.
    pub kind: ModuleKind,
}

impl TensorList {
    /// All tensors.
    pub fn iter(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.iter()
    }

    /// All tensors in the order in which a token meets them, which is the order in which a model is written.
    pub fn in_order_of_use(&self) -> Vec<&TensorSpec> {
        let mut tensors: Vec<&TensorSpec> = self.iter().collect();
        tensors.sort_by_key(|spec| match spec.layer {
            Some(layer) => (1, layer, spec.role),
            None if spec.role == Role::Embedding => (0, 0, spec.role),
            None => (2, 0, spec.role),
        });
        tensors
    }

    /// All modules, parents before children.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorSpec> {
        self.names.get(name).map(|&at| &self.tensors[at])
    }

    /// The weight with this role in a layer, or outside all layers.
    pub fn weight(&self, layer: Option<usize>, role: Role) -> Option<&TensorSpec> {
        let at = self.roles.get(&(layer, role, Part::Weight))?;
        Some(&self.tensors[*at])
    }

    /// The bias with this role in a layer.
    pub fn bias(&self, layer: Option<usize>, role: Role) -> Option<&TensorSpec> {
        let at = self.roles.get(&(layer, role, Part::Bias))?;
        Some(&self.tensors[*at])
    }

    /// The path of the output head, which has no tensors where it is the embedding.
    pub fn head(&self) -> &str {
        let mut modules = self.modules.iter();
        let head = modules.find(|module| module.kind == ModuleKind::Head);
        head.map_or("", |module| module.path.as_str())
    }

    /// The matrices of experts, by layer.
    pub fn expert_matrices(&self) -> impl Iterator<Item = (usize, ExpertMatrix, &TensorSpec)> {
        self.iter()
            .filter_map(|spec| Some((spec.layer?, spec.expert_matrix()?, spec)))
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The paths of the layers.
    pub fn layer_paths(&self) -> &[String] {
        &self.layers
    }

    /// The layer that a path or name is in.
    pub fn layer_of(&self, path: &str) -> Option<usize> {
        let mut layers = self.layers.iter();
        layers.position(|layer| below(layer, path).is_some())
    }

    /// What follows the path of its layer in a path or name.
    pub fn below_layer<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.layers.iter().find_map(|layer| below(layer, path))
    }

    /// The number of all parameters.
    pub fn parameters(&self) -> u64 {
        self.iter().map(|spec| spec.elements() as u64).sum()
    }

    /// Adds a tensor, and its module with all that hold it.
    pub fn add(&mut self, spec: TensorSpec) {
        let at = self.tensors.len();
        self.module(spec.module(), spec.role.module_kind());
        self.names.insert(spec.name.clone(), at);
        self.roles.insert((spec.layer, spec.role, spec.part), at);
        self.tensors.push(spec);
    }

    /// Adds a module that may have no tensors, and all that hold it, where they are not there yet.
    pub fn module(&mut self, path: &str, kind: ModuleKind) {
        if self.modules.iter().rev().any(|module| module.path == path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('.') {
            self.module(parent, ModuleKind::Container);
        }
        let path = path.to_owned();
        self.modules.push(Module { path, kind });
    }

    /// Adds the weight of a module outside all layers.
    pub fn outside(&mut self, role: Role, module: &str, shape: &[usize]) {
        self.add(TensorSpec {
            name: format!("{module}.weight"),
            layer: None,
            role,
            part: Part::Weight,
            shape: shape.to_vec(),
        });
    }

    /// Adds the next layer, whose modules are below `path`.
    pub fn layer(&mut self, path: String) -> LayerTensors<'_> {
        let layer = self.layers.len();
        self.layers.push(path.clone());
        LayerTensors {
            list: self,
            layer,
            path,
        }
    }
}

/// What follows `layer.` in a path.
fn below<'a>(layer: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(layer)?.strip_prefix('.')
}

/// The tensors of one layer, being added. Names are below the layer's path.
pub struct LayerTensors<'a> {
    list: &'a mut TensorList,
    layer: usize,
    path: String,
}

impl LayerTensors<'_> {
    /// Adds a tensor by its whole name below the layer.
    pub fn tensor(&mut self, role: Role, part: Part, name: &str, shape: &[usize]) {
        self.list.add(TensorSpec {
            name: format!("{}.{name}", self.path),
            layer: Some(self.layer),
            role,
            part,
            shape: shape.to_vec(),
        });
    }

    /// Adds a linear layer.
    pub fn linear(
        &mut self,
        role: Role,
        module: &str,
        (inputs, outputs): (usize, usize),
        bias: bool,
    ) {
        let weight = format!("{module}.weight");
        self.tensor(role, Part::Weight, &weight, &[outputs, inputs]);
        if bias {
            self.tensor(role, Part::Bias, &format!("{module}.bias"), &[outputs]);
        }
    }

    /// Adds a norm.
    pub fn norm(&mut self, role: Role, module: &str, width: usize) {
        self.tensor(role, Part::Weight, &format!("{module}.weight"), &[width]);
    }

    /// Adds a matrix of all experts, its biases first, as they have always been written.
    pub fn experts(
        &mut self,
        matrix: ExpertMatrix,
        name: &str,
        experts: usize,
        (inputs, outputs): (usize, usize),
        bias: bool,
    ) {
        let role = Role::Experts(matrix);
        if bias {
            let name = format!("{name}_bias");
            self.tensor(role, Part::Bias, &name, &[experts, outputs]);
        }
        self.tensor(role, Part::Weight, name, &[experts, inputs, outputs]);
    }

    /// Adds a module without tensors.
    pub fn module(&mut self, module: &str) {
        let path = format!("{}.{module}", self.path);
        self.list.module(&path, ModuleKind::Container);
    }
}
