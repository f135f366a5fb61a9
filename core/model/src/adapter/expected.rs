//! Which tensors an adapter's file has to hold, by its configuration and the shape of the model.

use super::peft_config::PeftConfig;
use crate::model::Targets;
use crate::model::updates::{PREFIX, Update, expert_module, pair_keys, updates};
use crate::tensors::{Role, TensorList, TensorSpec};
use anyhow::{Result, ensure};
use apus_base::wording;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Shapes of tensors by their names.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The number of names that an error shows at most.
const SHOWN: usize = 4;

/// The tensors of these targets, in the layout of current PEFT.
///
/// # Errors
/// The model does not have a target.
pub fn expected(config: &PeftConfig, targets: &Targets, list: &TensorList) -> Result<Shapes> {
    let updates = updates(list, targets, &config.settings(0))?;
    let tensors = updates.iter().flat_map(Update::tensors);
    let shapes = tensors.map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
    let mut shapes: Shapes = shapes.collect();
    let is_saved = |spec: &&TensorSpec| {
        let mut saved = targets.modules_to_save.iter();
        saved.any(|module| module == spec.module())
    };
    for spec in list.iter().filter(is_saved) {
        shapes.insert(format!("{PREFIX}{}", spec.name), spec.shape.clone());
    }
    Ok(shapes)
}

/// Modules that the file holds whole although the configuration does not name them: PEFT saves embedding and head by
/// itself where it thinks that they changed.
pub fn added_whole(found: &Shapes, expected: &Shapes, list: &TensorList) -> Vec<String> {
    let extra = |spec: &&TensorSpec| {
        let key = format!("{PREFIX}{}", spec.name);
        found.contains_key(&key) && !expected.contains_key(&key)
    };
    let added = [Role::Embedding, Role::Head].map(|role| list.weight(None, role));
    let added = added.into_iter().flatten().filter(extra);
    added.map(|spec| spec.module().to_owned()).collect()
}

/// Checks that the file holds these tensors, in these shapes, and no others; `r` is the rank of those of LoRA.
///
/// # Errors
/// Tensors are missing, superfluous or of another shape; the error names them.
pub fn compare(found: &Shapes, expected: &Shapes, r: Option<usize>) -> Result<()> {
    if let Some(key) = found.keys().find(|key| !key.starts_with(PREFIX)) {
        anyhow::bail!("{key} is no key of a PEFT adapter: it does not start with {PREFIX}");
    }
    let missing: Vec<&String> = expected
        .keys()
        .filter(|key| !found.contains_key(*key))
        .collect();
    ensure!(
        missing.is_empty(),
        "{} of the {} tensors that adapter_config.json asks for are missing: {}; was it written whole, and for this \
         configuration?",
        missing.len(),
        expected.len(),
        some(&missing)
    );
    let extra: Vec<&String> = found
        .keys()
        .filter(|key| !expected.contains_key(*key))
        .collect();
    ensure!(
        extra.is_empty(),
        "{} of its {} tensors belong to nothing that adapter_config.json names in this model: {}",
        extra.len(),
        found.len(),
        some(&extra)
    );
    let rank = r.map_or(String::new(), |r| format!("rank {r}, and "));
    for (key, shape) in expected {
        let actual = &found[key];
        ensure!(
            actual == shape,
            "{key} has shape {actual:?}, expected {shape:?} ({rank}the shape of the base model)"
        );
    }
    Ok(())
}

/// Lists the first names: `a, b, c, d and 8 more`.
pub fn some(names: &[&String]) -> String {
    wording::some(names, SHOWN)
}

/// Finds pairs of experts whose inputs and outputs are swapped.
///
/// PEFT with a transformers whose experts have no `is_transposed` yet takes inputs for outputs: A is `[r E, out]`
/// and B `[in, r E]`. Matrices that are not square tell which of the two wrote the file. Returns the keys of all pairs
/// of experts if they are swapped, and swaps their shapes back in `found`.
pub fn swapped(
    found: &mut Shapes,
    expected: &Shapes,
    targets: &Targets,
    list: &TensorList,
) -> Vec<[String; 2]> {
    let pairs = targets.experts.iter();
    let pairs: Vec<[String; 2]> = pairs
        .filter_map(|&(layer, matrix)| expert_module(list, targets, layer, matrix))
        .map(|module| pair_keys(&module))
        .collect();
    // A `[ranks, out]` and B `[in, ranks]`, from A `[ranks, in]` and B `[out, ranks]`.
    let swapped_shapes = |a: &[usize], b: &[usize]| match (a, b) {
        (&[ranks, input], &[output, _]) => Some(([ranks, output], [input, ranks])),
        _ => None,
    };
    let is_swapped = |[a, b]: &[String; 2]| {
        let (Some(a_shape), Some(b_shape)) = (expected.get(a), expected.get(b)) else {
            return false;
        };
        swapped_shapes(a_shape, b_shape).is_some_and(|(a_swapped, b_swapped)| {
            let has_shape =
                |key: &String, shape: [usize; 2]| found.get(key).is_some_and(|s| *s == shape);
            a_shape != &a_swapped && has_shape(a, a_swapped) && has_shape(b, b_swapped)
        })
    };
    if !pairs.iter().any(is_swapped) {
        return Vec::new();
    }
    for [a, b] in &pairs {
        if let (Some(a_shape), Some(b_shape)) = (found.get(a), found.get(b))
            && let Some((a_swapped, b_swapped)) = swapped_shapes(a_shape, b_shape)
        {
            found.insert(a.clone(), a_swapped.to_vec());
            found.insert(b.clone(), b_swapped.to_vec());
        }
    }
    pairs
}

/// Swaps inputs and outputs of a pair of `e` experts back and returns `(A, B)`.
pub fn unswap(a: &Tensor, b: &Tensor, e: usize) -> Result<(Tensor, Tensor)> {
    let ((ranks, output), (input, _)) = (a.dims2()?, b.dims2()?);
    let r = ranks / e;
    let new_a = b.reshape((input, r, e))?.permute((2, 1, 0))?.contiguous()?;
    let new_b = a
        .reshape((e, r, output))?
        .permute((2, 1, 0))?
        .contiguous()?;
    Ok((
        new_a.reshape((ranks, input))?,
        new_b.reshape((output, ranks))?,
    ))
}
