//! How far a run's file has been sent, beside it in `debug/upload.json`: so that nothing is sent twice and nothing is
//! forgotten, whoever goes on.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is known about the sending of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The server.
    pub host: String,
    /// The experiment there.
    pub experiment: String,
    /// Its page.
    pub page: String,
    /// Up to where the server has confirmed the file.
    pub sent: u64,
    /// Lines of the terminal that the server had before this file.
    pub lines: i64,
    /// Samples of the machine that the server had before this file.
    pub samples: i64,
    /// Whether the server knows how the run ended.
    pub finished: bool,
}

impl Progress {
    fn file(dir: &Path) -> PathBuf {
        dir.join("debug").join("upload.json")
    }

    /// Reads what is known; `None` if nothing is, or it is about another server or experiment.
    pub fn read(dir: &Path, host: &str, experiment: &str) -> Option<Self> {
        let text = fs::read_to_string(Self::file(dir)).ok()?;
        let known: Self = serde_json::from_str(&text).ok()?;
        (known.host == host && known.experiment == experiment).then_some(known)
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let file = Self::file(dir);
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_about_one_experiment() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Progress::read(dir.path(), "h", "e"), None);
        let progress = Progress {
            host: "h".to_owned(),
            experiment: "e".to_owned(),
            sent: 7,
            ..Progress::default()
        };
        progress.write(dir.path()).unwrap();
        assert_eq!(Progress::read(dir.path(), "h", "e"), Some(progress));
        assert_eq!(Progress::read(dir.path(), "h", "other"), None);
        fs::write(Progress::file(dir.path()), "{").unwrap();
        assert_eq!(Progress::read(dir.path(), "h", "e"), None);
    }
}
