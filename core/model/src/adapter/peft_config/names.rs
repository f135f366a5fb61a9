//! Writes the names of targets as PEFT does.

use super::TargetModules;
use crate::adapter::targets::is_suffix;
use crate::model::Targets;
use crate::tensors::TensorList;
use std::collections::{BTreeMap, BTreeSet};

/// From this number of names on, PEFT writes their shortest unambiguous ends.
const CONDENSE_FROM: usize = 20;

/// PEFT knows no `all-norm`: such entries are written as the modules they stand for.
pub(super) fn saved_names(list: &TensorList, wanted: &[String], targets: &Targets) -> Vec<String> {
    let special = wanted.iter().any(|w| w.starts_with("all-"));
    match special {
        true => match condensed(list, TargetModules::Names(targets.modules_to_save.clone())) {
            TargetModules::Names(names) => names,
            TargetModules::Regex(_) => Vec::new(),
        },
        false => wanted.to_vec(),
    }
}

/// PEFT's `_find_minimal_target_modules`: many names become the shortest ends that match no other module.
pub(super) fn condensed(list: &TensorList, targets: TargetModules) -> TargetModules {
    let TargetModules::Names(names) = &targets else {
        return targets;
    };
    if names.len() < CONDENSE_FROM {
        return targets;
    }
    let is_target = |path: &str| names.iter().any(|name| is_suffix(path, name));
    let others: BTreeSet<String> = list
        .modules()
        .iter()
        .filter(|m| !is_target(&m.path))
        .flat_map(|m| suffixes(&m.path))
        .collect();
    let by_suffixes: BTreeMap<Vec<String>, &String> =
        names.iter().map(|name| (suffixes(name), name)).collect();
    let mut required: BTreeSet<String> = BTreeSet::new();
    for (suffixes, name) in by_suffixes {
        let covered = |required: &BTreeSet<String>| {
            required
                .iter()
                .any(|end| name.ends_with(&format!(".{end}")))
        };
        for suffix in suffixes {
            if !required.contains(&suffix) && !others.contains(&suffix) && !covered(&required) {
                required.insert(suffix);
                break;
            }
        }
    }
    if required.is_empty() || required.len() >= names.len() {
        return targets;
    }
    TargetModules::Names(required.into_iter().collect())
}

/// Ends of a dotted name, the shortest first.
fn suffixes(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split('.').collect();
    (0..parts.len())
        .rev()
        .map(|i| parts[i..].join("."))
        .collect()
}
