//! Finds the run folders below a folder.

use super::folder::{Folder, FolderPath};
use std::path::Path;

/// How many folders deep the search goes.
const DEPTH: usize = 6;
/// The most runs that are found.
const MOST: usize = 2_000;

/// A run folder that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// Its path below the folder that was searched, with `/`; `.` for that folder itself.
    pub id: String,
    /// The folder.
    pub place: FolderPath,
}

/// All run folders at or below a folder, sorted by path. Links are not followed, and folders that cannot be read are
/// left out.
pub fn find(root: &Path) -> Vec<FoundRun> {
    let mut found = Vec::new();
    if let Ok(folder) = Folder::at(root) {
        search(
            &folder,
            &FolderPath::from(root),
            &mut Vec::new(),
            &mut found,
        );
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

fn search(folder: &Folder, place: &FolderPath, below: &mut Vec<String>, found: &mut Vec<FoundRun>) {
    if found.len() >= MOST {
        return;
    }
    let entries = folder.entries();
    let here = |name: &str| entries.iter().any(|(known, _)| known == name);
    if is_run(folder, here) {
        let id = match below.is_empty() {
            true => ".".to_owned(),
            false => below.join("/"),
        };
        let place = place.clone();
        found.push(FoundRun { id, place });
        return;
    }
    if below.len() == DEPTH {
        return;
    }
    for (name, is_folder) in entries {
        let shown = name.to_string_lossy().into_owned();
        if !is_folder || shown.starts_with('.') || checkpoint(&shown).is_some() {
            continue;
        }
        let Ok(inner) = folder.folder(&name) else {
            continue;
        };
        below.push(shown);
        search(&inner, &place.below(name), below, found);
        below.pop();
    }
}

/// The step of a checkpoint's folder.
fn checkpoint(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.parse().ok()
}

/// Whether a folder is a run's. A checkpoint or an exported model also contains `args.json`, but beside weights.
fn is_run(folder: &Folder, here: impl Fn(&str) -> bool) -> bool {
    let is_file = |name: &str| here(name) && folder.facts(name).is_some();
    let weights = ["adapter_config.json", "config.json", "trainer_state.json"];
    is_file("run.json")
        || is_file("logging.jsonl")
        || (is_file("args.json") && !weights.into_iter().any(here))
}

/// The checkpoints in a run's folder, by step.
pub fn checkpoints(folder: &Folder) -> Vec<u64> {
    let entries = folder.entries().into_iter();
    let mut steps: Vec<u64> = entries
        .filter_map(|(name, is_folder)| checkpoint(name.to_str()?).filter(|_| is_folder))
        .collect();
    steps.sort_unstable();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        let run = Folder::at(&root.path().join("a/v0-1")).unwrap();
        assert_eq!(checkpoints(&run), [10]);
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
