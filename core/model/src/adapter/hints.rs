//! What a model has that can be trained, in words for messages.

use crate::tensors::{ModuleKind, TensorList};

/// The linear layers, and the matrices of experts if there are any.
pub fn carriers(list: &TensorList) -> String {
    let linears = of_kind(list, ModuleKind::Linear);
    let first = linears.first().map(|path| in_any_layer(list, path));
    let names: Vec<&str> = unique(linears.iter().map(|path| last(path)));
    let mut text = format!(
        "its linear layers are {} ({}, ...), all of them together all-linear",
        names.join(", "),
        first.unwrap_or_default()
    );
    let experts = numbered(&matrices(list));
    if !experts.is_empty() {
        let experts = experts.join(", ");
        text += &format!("; expert matrices are reached by --target_parameters ({experts})");
    }
    text
}

/// The blocks, as they follow in a sentence.
pub fn blocks(list: &TensorList) -> String {
    let paths = list.modules().iter().map(|module| module.path.as_str());
    let inside =
        paths.filter(|path| list.below_layer(path).is_some() && list.block(path).is_some());
    let names: Vec<&str> = unique(inside.map(last));
    format!(
        "; its blocks are {} and whole layers (layers.0, all of them together all-layers)",
        names.join(", ")
    )
}

/// What `all-linear` trains.
pub fn all_linear(list: &TensorList) -> &'static str {
    match matrices(list).is_empty() {
        true => "attention and MLPs",
        false => "the attention",
    }
}

/// The 3-D parameters, or that there are none.
pub fn expert_parameters(list: &TensorList) -> String {
    match numbered(&matrices(list)).as_slice() {
        [] => "it has no 3-D parameters".to_owned(),
        names => format!("its 3-D parameters are {}", names.join(" and ")),
    }
}

/// That nothing but 3-D parameters can be a target of `target_parameters`.
pub fn only_expert_parameters(list: &TensorList) -> String {
    match matrices(list).as_slice() {
        [] => "only 3-D parameters can be targets, and this model has none".to_owned(),
        names => format!(
            "only the 3-D expert parameters {} can be targets",
            names.join(" and ")
        ),
    }
}

/// One of the 3-D parameters.
pub fn first_expert_parameter(list: &TensorList) -> String {
    let names = numbered(&matrices(list));
    names.into_iter().next().unwrap_or_default()
}

/// The modules that can be trained whole.
pub fn modules_to_save(list: &TensorList) -> String {
    let norms = of_kind(list, ModuleKind::Norm);
    let (inside, outside): (Vec<&str>, Vec<&str>) = norms
        .into_iter()
        .partition(|path| list.layer_of(path).is_some());
    let routers = of_kind(list, ModuleKind::Router);
    let groups = [
        of_kind(list, ModuleKind::Embedding),
        of_kind(list, ModuleKind::Head),
        outside,
        inside,
        of_kind(list, ModuleKind::Linear),
        routers.clone(),
        of_kind(list, ModuleKind::Experts),
    ];
    let mut names = unique(groups.iter().flatten().map(|path| last(path)));
    names.extend(["all-embedding", "all-norm"]);
    if !routers.is_empty() {
        names.push("all-router");
    }
    names.join(", ")
}

/// Paths of the modules of a kind.
fn of_kind(list: &TensorList, kind: ModuleKind) -> Vec<&str> {
    let modules = list.modules().iter().filter(|module| module.kind == kind);
    modules.map(|module| module.path.as_str()).collect()
}

/// The matrices of experts, named below their layer.
fn matrices(list: &TensorList) -> Vec<&str> {
    unique(
        list.expert_matrices()
            .filter_map(|(_, _, spec)| list.below_layer(&spec.name)),
    )
}

/// Names below a layer with `N` for its number, as they are given in lists.
fn numbered(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("N.{name}")).collect()
}

/// A path with `N` for the number of its layer.
fn in_any_layer(list: &TensorList, path: &str) -> String {
    let below = list.below_layer(path).unwrap_or(path);
    let layer = path
        .strip_suffix(below)
        .and_then(|layer| layer.strip_suffix('.'));
    match layer.and_then(|layer| layer.rsplit_once('.')) {
        Some((layers, _)) => format!("{layers}.N.{below}"),
        None => path.to_owned(),
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Each name once, where it comes first.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}
