//! Checkpoints: whole or absent.
//!
//! Everything is written to a temporary folder beside the final one, synced, and renamed, so that a
//! full disk or a power cut leaves earlier checkpoints as they were and no half of a new one.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The checkpoints of a run.
pub struct Checkpoint;

/// Optimizer state inside a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

impl Checkpoint {
    /// The folder of a step's checkpoint.
    pub fn path(run: &Path, step: u64) -> PathBuf {
        run.join(format!("checkpoint-{step}"))
    }

    /// Writes a checkpoint: `fill` puts its files into the folder it is given.
    ///
    /// # Errors
    /// `fill` failed, or the disk did; the temporary folder is removed then.
    pub fn write(run: &Path, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = Self::path(run, step);
        let temporary = run.join(format!(".checkpoint-{step}.tmp"));
        let attempt = || -> Result<()> {
            if temporary.exists() {
                fs::remove_dir_all(&temporary)?;
            }
            fs::create_dir_all(&temporary)?;
            fill(&temporary)?;
            sync(&temporary)?;
            if target.exists() {
                fs::remove_dir_all(&target)?;
            }
            fs::rename(&temporary, &target)?;
            File::open(run)?.sync_all()?;
            Ok(())
        };
        attempt()
            .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
            .with_context(|| {
                format!(
                    "{}: cannot be saved; earlier checkpoints are untouched",
                    target.display()
                )
            })?;
        Ok(target)
    }

    /// All checkpoints of a run with their steps, earliest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            let step = name
                .to_str()
                .and_then(|name| name.strip_prefix("checkpoint-"));
            if let Some(Ok(step)) = step.map(str::parse::<u64>) {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Deletes the earliest checkpoints until `limit` are left; the last and `best` always stay.
    ///
    /// # Errors
    /// A folder cannot be deleted.
    pub fn rotate(run: &Path, limit: usize, best: Option<&Path>) -> Result<()> {
        let all = Self::list(run)?;
        let mut excess = all.len().saturating_sub(limit.max(1));
        let last = all.len().saturating_sub(1);
        for (i, (_, path)) in all.iter().enumerate() {
            if excess == 0 {
                break;
            }
            if i == last || best == Some(path.as_path()) {
                continue;
            }
            fs::remove_dir_all(path)
                .with_context(|| format!("{}: cannot be deleted", path.display()))?;
            excess -= 1;
        }
        Ok(())
    }

    /// Checks that a folder holds all files of a checkpoint.
    ///
    /// # Errors
    /// It does not exist, or lacks a file; the error names it and whole checkpoints beside it.
    pub fn check(dir: &Path, weights: &str) -> Result<()> {
        if !dir.is_dir() {
            bail!(
                "{}: no such checkpoint folder{}",
                dir.display(),
                beside(dir)
            );
        }
        for file in [weights, OPTIMIZER_FILE, super::state::TrainerState::FILE] {
            if !dir.join(file).is_file() {
                bail!(
                    "{}: incomplete checkpoint, {file} is missing{}",
                    dir.display(),
                    beside(dir)
                );
            }
        }
        Ok(())
    }
}

/// Other checkpoints in the same folder, for messages.
fn beside(dir: &Path) -> String {
    let others: Vec<String> = dir
        .parent()
        .and_then(|run| Checkpoint::list(run).ok())
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, path)| path != dir)
        .map(|(_, path)| path.display().to_string())
        .collect();
    match others.as_slice() {
        [] => String::new(),
        others => format!("; there is also {}", others.join(", ")),
    }
}

/// Puts a folder and its files on the disk.
fn sync(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(run: &Path) -> Vec<u64> {
        Checkpoint::list(run)
            .unwrap()
            .into_iter()
            .map(|(step, _)| step)
            .collect()
    }

    #[test]
    fn whole_or_absent() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let write = |step, text: &'static str| {
            Checkpoint::write(run, step, |dir| Ok(fs::write(dir.join("a"), text)?))
        };
        let path = write(1, "one").unwrap();
        let error = Checkpoint::write(run, 1, |dir| {
            fs::write(dir.join("a"), "two")?;
            bail!("No space left on device")
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains("No space left"));
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "one");
        assert_eq!(fs::read_dir(run).unwrap().count(), 1);
        write(1, "two").unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "two");
    }

    #[test]
    fn rotation_keeps_best_and_last() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        for step in [5, 10, 15, 100] {
            Checkpoint::write(run, step, |_| Ok(())).unwrap();
        }
        let best = Checkpoint::path(run, 5);
        Checkpoint::rotate(run, 3, Some(&best)).unwrap();
        assert_eq!(names(run), [5, 15, 100]);
        Checkpoint::rotate(run, 1, Some(&best)).unwrap();
        assert_eq!(names(run), [5, 100]);
        Checkpoint::rotate(run, 1, None).unwrap();
        assert_eq!(names(run), [100]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let run = tempfile::tempdir().unwrap();
        let whole = Checkpoint::write(run.path(), 1, |dir| {
            for file in ["w", OPTIMIZER_FILE, "trainer_state.json"] {
                fs::write(dir.join(file), "")?;
            }
            Ok(())
        })
        .unwrap();
        Checkpoint::check(&whole, "w").unwrap();
        let half =
            Checkpoint::write(run.path(), 2, |dir| Ok(fs::write(dir.join("w"), "")?)).unwrap();
        let error = Checkpoint::check(&half, "w").unwrap_err().to_string();
        assert!(
            error.contains(OPTIMIZER_FILE) && error.contains("checkpoint-1"),
            "{error}"
        );
        assert!(Checkpoint::check(&run.path().join("checkpoint-3"), "w").is_err());
    }
}
