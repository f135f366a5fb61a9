//! Finds the run folders below a folder.

use std::fs;
use std::path::{Path, PathBuf};

/// How many folders deep runs are looked for.
const DEPTH: usize = 6;
/// How many runs are shown at most.
const MOST: usize = 2_000;

/// A run folder and its path below the folder that was searched; `.` for that folder itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path below the folder that was searched, with `/`.
    pub id: String,
    /// The folder.
    pub dir: PathBuf,
}

/// All run folders at or below a folder, by path. Links are not followed, and what cannot be read is left out.
pub fn find(root: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    search(root, &mut Vec::new(), &mut found);
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

fn search(dir: &Path, below: &mut Vec<String>, found: &mut Vec<Found>) {
    if found.len() >= MOST {
        return;
    }
    if is_run(dir) {
        let id = match below.is_empty() {
            true => ".".to_owned(),
            false => below.join("/"),
        };
        let dir = dir.to_owned();
        found.push(Found { id, dir });
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    if below.len() == DEPTH {
        return;
    }
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_dir || name.starts_with('.') || is_checkpoint(&name) {
            continue;
        }
        below.push(name);
        search(&entry.path(), below, found);
        below.pop();
    }
}

fn is_checkpoint(name: &str) -> bool {
    name.strip_prefix("checkpoint-")
        .is_some_and(|step| step.parse::<u64>().is_ok())
}

/// Whether a folder holds a run.
fn is_run(dir: &Path) -> bool {
    let here = |name: &str| {
        dir.join(name)
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
    };
    here("run.json") || here("logging.jsonl") || (here("args.json") && !holds_weights(dir))
}

/// A checkpoint and an exported model keep `args.json` beside their weights.
fn holds_weights(dir: &Path) -> bool {
    ["adapter_config.json", "config.json", "trainer_state.json"]
        .iter()
        .any(|name| dir.join(name).exists())
}

/// The checkpoints in a run's folder, by step.
pub fn checkpoints(dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(root: &Path) -> Vec<String> {
        find(root).into_iter().map(|found| found.id).collect()
    }

    #[test]
    fn runs_are_found_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for (dir, file) in [
            ("a/v0-1", "args.json"),
            ("a/v0-1/checkpoint-10", "args.json"),
            ("a/v1-2", "logging.jsonl"),
            ("b", "run.json"),
            ("merged", "args.json"),
            ("merged", "config.json"),
            ("c/checkpoint-5", "args.json"),
            (".hidden", "run.json"),
        ] {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), "{}").unwrap();
        }
        assert_eq!(ids(root.path()), ["a/v0-1", "a/v1-2", "b"]);
        assert_eq!(ids(&root.path().join("b")), ["."]);
        assert_eq!(ids(&root.path().join("none")), [""; 0]);
        assert_eq!(checkpoints(&root.path().join("a/v0-1")), [10]);
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("run.json"), "{}").unwrap();
        std::os::unix::fs::symlink(other.path(), root.path().join("link")).unwrap();
        assert_eq!(ids(root.path()), [""; 0]);
    }
}
