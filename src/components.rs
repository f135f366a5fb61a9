//! `apus components [KIND]`

use crate::{Ended, Failure};
use apus_core::registry;
use apus_sdk::Kind;

pub fn run(words: &[String]) -> Result<Ended, Failure> {
    let wanted = words.join(" ").replace(['-', '_'], " ");
    let kinds: Vec<Kind> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| wanted.is_empty() || kind.name() == wanted)
        .collect();
    if kinds.is_empty() {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        return Err(Failure::Usage(anyhow::anyhow!(
            "there is no kind of component {wanted:?}; there are {}",
            names.join(", ")
        )));
    }
    for kind in kinds {
        println!("{kind}");
        for component in registry::all(kind).map_err(Failure::Run)? {
            println!(
                "  {:24} {}  ({} {})",
                component.name, component.doc, component.source, component.version
            );
        }
    }
    Ok(Ended::Done)
}
