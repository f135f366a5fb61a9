//! The plugins to load: those of the configuration, and those in folders that the environment names.

use super::{
    installed::{self, PluginHome},
    process,
};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::env::consts::DLL_SUFFIX;
use std::path::{Path, PathBuf};

/// The environment variable that names folders whose plugins are all loaded.
pub const PATH_VARIABLE: &str = "APUS_PLUGIN_PATH";

/// A plugin in a configuration: `"libmine.so"`, or a table with `path` and more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PluginForm")]
pub struct PluginSpec {
    /// The path of the library, the name of a plugin that was installed, or `cmd:` and the command of a program.
    pub path: PathBuf,
    /// The SHA-256 that the library must have, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A prefix for the names of its components, so that they do not clash with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many seconds a program may take for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// How many seconds a program may take to say what it has, and to make a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<u64>,
    /// How many processes of a program convert and weigh rows; one, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PluginForm {
    Path(PathBuf),
    Table(PluginTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginTable {
    path: PathBuf,
    sha256: Option<String>,
    prefix: Option<String>,
    timeout: Option<u64>,
    start_timeout: Option<u64>,
    processes: Option<usize>,
}

impl From<PluginForm> for PluginSpec {
    fn from(written: PluginForm) -> Self {
        match written {
            PluginForm::Path(path) => Self::new(path),
            PluginForm::Table(PluginTable {
                path,
                sha256,
                prefix,
                timeout,
                start_timeout,
                processes,
            }) => Self {
                path,
                sha256,
                prefix,
                timeout,
                start_timeout,
                processes,
            },
        }
    }
}

impl PluginSpec {
    /// The library at this path, without prefix and without a required hash.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }
}

impl PluginSpec {
    /// The command, if it is a program.
    pub fn command(&self) -> Option<&str> {
        self.path.to_str()?.strip_prefix(process::PREFIX)
    }

    /// The file of the library, and the hash that it was installed with if it is a plugin's name. A path that exists comes first.
    ///
    /// # Errors
    /// A name under which nothing is installed; the error says what is.
    pub(super) fn locate(&self) -> Result<(PathBuf, Option<String>)> {
        let word = self.path.to_string_lossy();
        if self.path.symlink_metadata().is_ok() || !installed::is_name(&word) {
            return Ok((self.path.clone(), None));
        }
        let home = PluginHome::from_environment();
        if let Some(home) = &home
            && let Some((file, record)) = home.find(&word)?
        {
            return Ok((file, Some(record.sha256)));
        }
        let mut names = Vec::new();
        if let Some(home) = &home {
            names.extend(home.all()?.into_iter().flatten().map(|found| found.name));
        }
        bail!(
            "plugin {word}: there is no such file, and no plugin of this name is installed{}; \
             `apus plugin install` installs one",
            match names.is_empty() {
                true => String::new(),
                false => format!(" ({} are)", names.join(", ")),
            }
        )
    }
}

/// The libraries in the folders that [`PATH_VARIABLE`] names, sorted by name, each with its path or that of the folder that cannot
/// be read.
pub fn from_environment() -> Vec<(PathBuf, Result<PluginSpec>)> {
    let Some(folders) = std::env::var_os(PATH_VARIABLE) else {
        return Vec::new();
    };
    let folders = std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
    folders
        .flat_map(|folder| match libraries(&folder) {
            Ok(found) => found
                .into_iter()
                .map(|file| (file.clone(), Ok(PluginSpec::new(file))))
                .collect(),
            Err(error) => vec![(folder, Err(error))],
        })
        .collect()
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
