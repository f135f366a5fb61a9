//! The built-in components in both of their ways in: linked into this binary, and loaded from a library
//! that holds the same source, where their names begin with `so_`.

use apus_components::plugin::PluginSpec;
use apus_components::registry;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::PathBuf;

/// A plugin library that `cargo test` built beside this binary.
pub fn library(name: &str) -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let file = format!("{DLL_PREFIX}{name}{DLL_SUFFIX}");
    let path = binary.parent().unwrap().join(file);
    assert!(path.is_file(), "{}: cargo did not build it", path.display());
    path
}

/// What goes before the names, for each way in.
pub fn ways() -> [&'static str; 2] {
    apus_plugins::link();
    let spec = PluginSpec {
        prefix: Some("so_".to_owned()),
        ..PluginSpec::new(library("builtins_plugin"))
    };
    registry::load(&[spec]).unwrap();
    ["", "so_"]
}
