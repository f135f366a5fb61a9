//! A user of this machine, who installs plugins.

use super::{apus, library, text, words};
use std::fs;
use std::path::PathBuf;

/// A user with a folder of plugins.
pub struct User {
    /// Everything of this user.
    pub folder: tempfile::TempDir,
    /// What is run in place of cargo.
    pub cargo: String,
}

impl User {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            cargo: env!("CARGO").to_owned(),
        }
    }

    pub fn run(&self, line: &str) -> (bool, String) {
        let home = self.home().display().to_string();
        let environment = [
            ("XDG_DATA_HOME", ""),
            ("APUS_PLUGIN_HOME", home.as_str()),
            ("APUS_PLUGIN_INDEX", ""),
            ("NO_PROXY", "127.0.0.1"),
            ("CARGO", &self.cargo),
            ("LIBRARY", &library("muon").display().to_string()),
        ];
        let output = apus(&words(line), &environment);
        let said = text(&output);
        assert!(!said.contains("apus has a bug"), "{said}");
        (output.status.success(), said)
    }

    #[track_caller]
    pub fn works(&self, line: &str) -> String {
        let (fine, said) = self.run(line);
        assert!(fine, "apus {line}\n{said}");
        said
    }

    /// A command that fails, says all of this, and leaves what is installed as it is.
    #[track_caller]
    pub fn fails(&self, line: &str, says: &[&str]) {
        let before = self.installed();
        let (fine, said) = self.run(line);
        assert!(!fine, "apus {line}\n{said}");
        for part in says {
            assert!(said.contains(part), "apus {line}\n{part:?} not in:\n{said}");
        }
        assert_eq!(self.installed(), before, "apus {line}");
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Every file below the folder of plugins with what it holds.
    pub fn installed(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.home()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push((path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        found.sort();
        found
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}
