//! Checkpoints: whole or absent, when they are written, replaced and deleted.
//!
//! Everything is written to a hidden folder beside the final one, with the sums of its files, synced, and renamed,
//! so that a full disk or a power cut leaves earlier checkpoints as they were and no half of a new one. One
//! that is replaced or deleted is renamed to a hidden name first, since deleting a folder takes several steps. What
//! a killed run leaves under such names is cleaned up when the next one starts in the folder.

mod rotation;

pub use rotation::Rotation;

use anyhow::{Context, Result, bail};
use apus_base::checksums::{self, Checksums};
use apus_base::folder;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The checkpoints of a run.
pub struct Checkpoint;

/// Optimizer state inside a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The file of weights in a checkpoint: of the whole model, or of what adapts it.
pub fn weights_file(full: bool) -> &'static str {
    match full {
        true => "model.safetensors",
        false => "adapter_model.safetensors",
    }
}

/// What a checkpoint's folder is called while it is written, while another takes its place, and while it is deleted.
const NEW: &str = "tmp";
const OLD: &str = "old";
const GONE: &str = "gone";

impl Checkpoint {
    /// The folder of a step's checkpoint.
    pub fn path(run: &Path, step: u64) -> PathBuf {
        run.join(format!("checkpoint-{step}"))
    }

    /// The step of a checkpoint, by the name of its folder.
    pub fn step(path: &Path) -> Option<u64> {
        let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?;
        let digits = step.bytes().all(|byte| byte.is_ascii_digit());
        step.parse().ok().filter(|_| digits)
    }

    /// Writes a checkpoint: `fill` puts its files into the folder it is given.
    ///
    /// # Errors
    /// `fill` failed, or the disk did; the temporary folder is removed then.
    pub fn write(run: &Path, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = Self::path(run, step);
        let new = hidden(&target, NEW)?;
        let attempt = || -> Result<()> {
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            fs::create_dir_all(&new)?;
            fill(&new)?;
            Checksums::of(&new)?.write(&new)?;
            sync(&new)?;
            folder::replace(&target, &new, &hidden(&target, OLD)?)?;
            File::open(run)?.sync_all()?;
            Ok(())
        };
        attempt().map_err(|error| {
            // Asked before the folder is removed: this is what was left.
            let free = apus_base::memory::disk(run).map_or(String::new(), |bytes| {
                format!(" ({} free on its disk)", apus_base::memory::gib(bytes))
            });
            drop(fs::remove_dir_all(&new));
            error.context(format!(
                "{}: cannot be saved{free}; earlier checkpoints are untouched",
                target.display()
            ))
        })?;
        Ok(target)
    }

    /// Deletes a checkpoint.
    pub fn delete(path: &Path) -> Result<()> {
        let attempt = || -> Result<()> {
            let gone = hidden(path, GONE)?;
            if gone.exists() {
                fs::remove_dir_all(&gone)?;
            }
            fs::rename(path, &gone)?;
            Ok(fs::remove_dir_all(&gone)?)
        };
        attempt().with_context(|| format!("{}: cannot be deleted", path.display()))
    }

    /// All checkpoints of a run with their steps, earliest first.
    pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
            let path = entry?.path();
            if let Some(step) = Self::step(&path)
                && path.is_dir()
            {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes what a killed run has left half written or half deleted in its folder. A checkpoint that was moved
    /// aside for one that never came is put back.
    pub fn clean(run: &Path) -> Result<()> {
        for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((name, what)) = name.strip_prefix('.').and_then(|n| n.rsplit_once('.')) else {
                continue;
            };
            let target = run.join(name);
            if Self::step(&target).is_none() || ![NEW, OLD, GONE].contains(&what) {
                continue;
            }
            if what == OLD && !target.exists() {
                fs::rename(&path, &target)
            } else {
                fs::remove_dir_all(&path)
            }
            .with_context(|| format!("{}: cannot be cleaned up", path.display()))?;
        }
        Ok(())
    }

    /// Checks that a folder holds all these files of a checkpoint, and that they are as they were written. Says
    /// whether there were sums to hold them against.
    ///
    /// # Errors
    /// It does not exist, lacks a file, or one was changed; the error says which.
    pub fn check(dir: &Path, files: &[&str]) -> Result<bool> {
        if !dir.is_dir() {
            bail!("{}: no such checkpoint folder", dir.display());
        }
        for file in files {
            if !dir.join(file).is_file() {
                bail!(
                    "{}: incomplete checkpoint, {file} is missing",
                    dir.display()
                );
            }
        }
        let Some(sums) = Checksums::read(dir)? else {
            return Ok(false);
        };
        sums.check(dir)?;
        checksums::check(dir, files.iter().copied())?;
        Ok(true)
    }
}

/// `.checkpoint-5.tmp`.
fn hidden(path: &Path, what: &str) -> Result<PathBuf> {
    let name = path.file_name().context("a folder has a name")?;
    Ok(path.with_file_name(format!(".{}.{what}", name.to_string_lossy())))
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

    fn write(run: &Path, step: u64, text: &str) -> PathBuf {
        Checkpoint::write(run, step, |dir| Ok(fs::write(dir.join("a"), text)?)).unwrap()
    }

    fn names(run: &Path) -> Vec<String> {
        let entries = fs::read_dir(run).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn whole_or_absent() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let path = write(run, 1, "one");
        let error = Checkpoint::write(run, 1, |dir| {
            fs::write(dir.join("a"), "two")?;
            bail!("No space left on device")
        })
        .unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("No space left"), "{error}");
        assert!(error.contains(" free on its disk"), "{error}");
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "one");
        assert_eq!(names(run), ["checkpoint-1"]);
        write(run, 1, "two");
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "two");
        assert_eq!(names(run), ["checkpoint-1"]);
        Checkpoint::delete(&path).unwrap();
        assert_eq!(names(run), [""; 0]);
    }

    #[test]
    fn what_a_killed_run_leaves_is_no_checkpoint_and_is_cleaned_up() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let text = |step| fs::read_to_string(Checkpoint::path(run, step).join("a"));
        write(run, 1, "one");
        // Killed while 2 was written, 3 deleted, 4 replaced after and 5 before the new one was in its place.
        for (step, what) in [(2, NEW), (3, GONE), (4, OLD), (5, OLD), (5, NEW)] {
            let path = write(run, step, what);
            fs::rename(&path, hidden(&path, what).unwrap()).unwrap();
        }
        write(run, 4, "new");
        fs::create_dir(run.join(".other.tmp")).unwrap();
        fs::create_dir(run.join("checkpoint-+6")).unwrap();
        fs::write(run.join("checkpoint-7"), "a file").unwrap();
        let steps = || {
            Checkpoint::list(run)
                .unwrap()
                .into_iter()
                .map(|(step, _)| step)
        };
        assert_eq!(steps().collect::<Vec<_>>(), [1, 4]);
        Checkpoint::clean(run).unwrap();
        assert_eq!(steps().collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(text(4).unwrap(), "new");
        assert_eq!(text(5).unwrap(), OLD);
        assert_eq!(
            names(run),
            [
                ".other.tmp",
                "checkpoint-+6",
                "checkpoint-1",
                "checkpoint-4",
                "checkpoint-5",
                "checkpoint-7"
            ]
        );
    }

    #[test]
    fn what_is_missing_or_changed_is_named() {
        let run = tempfile::tempdir().unwrap();
        let fill = |dir: &Path| {
            for file in ["w", OPTIMIZER_FILE] {
                fs::write(dir.join(file), "abc")?;
            }
            Ok(())
        };
        let path = Checkpoint::write(run.path(), 1, fill).unwrap();
        let files = ["w", OPTIMIZER_FILE];
        let error = || Checkpoint::check(&path, &files).unwrap_err().to_string();
        assert!(Checkpoint::check(&path, &files).unwrap());
        fs::write(path.join("w"), "abd").unwrap();
        assert!(
            error().contains("w: is not as it was written"),
            "{}",
            error()
        );
        fs::remove_file(path.join(checksums::FILE)).unwrap();
        assert!(!Checkpoint::check(&path, &files).unwrap());
        fs::remove_file(path.join(OPTIMIZER_FILE)).unwrap();
        assert!(
            error().contains("incomplete checkpoint, optimizer.safetensors is missing"),
            "{}",
            error()
        );
        let none = Checkpoint::check(&run.path().join("checkpoint-3"), &files);
        assert!(none.unwrap_err().to_string().contains("no such checkpoint"));
    }
}
