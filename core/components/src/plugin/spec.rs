//! Which plugins to load: the configuration's, and those of a folder that the environment names.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::env::consts::DLL_SUFFIX;
use std::path::{Path, PathBuf};

/// The environment variable that names folders whose plugins are all loaded.
pub const PATH_VARIABLE: &str = "APUS_PLUGIN_PATH";

/// A plugin in a configuration: `"libmine.so"`, or a table with `path` and more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct PluginSpec {
    /// The library.
    pub path: PathBuf,
    /// What its SHA-256 has to be, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What goes before the names of its components, where they would clash with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Path(PathBuf),
    Table(Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: PathBuf,
    sha256: Option<String>,
    prefix: Option<String>,
}

impl From<Written> for PluginSpec {
    fn from(written: Written) -> Self {
        match written {
            Written::Path(path) => Self::new(path),
            Written::Table(Table {
                path,
                sha256,
                prefix,
            }) => Self {
                path,
                sha256,
                prefix,
            },
        }
    }
}

impl PluginSpec {
    /// This library, as it is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }
}

/// The libraries in the folders that [`PATH_VARIABLE`] names, by name.
pub fn from_environment() -> Result<Vec<PluginSpec>> {
    let Some(folders) = std::env::var_os(PATH_VARIABLE) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
        found.extend(libraries(&folder)?.into_iter().map(PluginSpec::new));
    }
    Ok(found)
}

fn libraries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!(
            "{PATH_VARIABLE} names {}, which cannot be read",
            folder.display()
        )
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(DLL_SUFFIX) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_a_table() {
        let read = |json: &str| serde_json::from_str::<PluginSpec>(json);
        assert_eq!(read(r#""a.so""#).unwrap(), PluginSpec::new("a.so"));
        let pinned = read(r#"{"path": "a.so", "sha256": "ab", "prefix": "x_"}"#).unwrap();
        assert_eq!(pinned.sha256.as_deref(), Some("ab"));
        assert_eq!(pinned.prefix.as_deref(), Some("x_"));
        assert!(read(r#"{"path": "a.so", "sha": "ab"}"#).is_err());
    }

    #[test]
    fn the_libraries_of_a_folder_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.so", "a.so", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = libraries(dir.path()).unwrap();
        assert_eq!(found, [dir.path().join("a.so"), dir.path().join("b.so")]);
        let error = format!("{:#}", libraries(&dir.path().join("no")).unwrap_err());
        assert!(error.contains(PATH_VARIABLE), "{error}");
    }
}
