//! Which checkpoints `save_total_limit` deletes: those of this run, the oldest first.
//!
//! The number in a checkpoint's name does not tell its age. A folder may hold checkpoints of another run, and of this
//! run's own steps beyond the one that it was resumed from: those are nobody's to delete here. Nor is one that holds the file
//! `kept`, which a callback has asked to keep; it does not count.

use super::Checkpoint;
use crate::train::state::TrainerState;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The checkpoints that a run has made in its folder, oldest first.
#[derive(Debug, Default)]
pub struct Rotation {
    made: Vec<PathBuf>,
}

/// The file in a checkpoint that is kept.
const KEPT: &str = "kept";

impl Rotation {
    /// Marks the checkpoint in a folder as kept.
    pub fn mark(dir: &Path) -> Result<()> {
        let mark = dir.join(KEPT);
        fs::write(&mark, "save_total_limit does not delete this checkpoint\n")
            .with_context(|| format!("{}: cannot be written", mark.display()))
    }

    /// Whether a checkpoint is kept.
    pub fn is_kept(&self, path: &Path) -> bool {
        path.join(KEPT).is_file()
    }

    /// Keeps a checkpoint of this run, or lets it be deleted again.
    ///
    /// # Errors
    /// It is none, or the disk failed.
    pub fn keep(&self, path: &Path, keep: bool) -> Result<()> {
        ensure!(
            self.made.iter().any(|made| made == path) && path.is_dir(),
            "{} is no checkpoint of this run",
            path.display()
        );
        match keep {
            true => Self::mark(path),
            false if self.is_kept(path) => Ok(fs::remove_file(path.join(KEPT))?),
            false => Ok(()),
        }
    }

    /// Those of the run `id` in this folder, which is resumed after `step` steps.
    pub fn resumed(run: &Path, id: &str, step: u64) -> Self {
        let mine = |(number, path): (u64, PathBuf)| {
            let state = TrainerState::read(&path).ok()?;
            (number <= step && state.run_id == id).then_some(path)
        };
        let found = Checkpoint::list(run).unwrap_or_default();
        Self {
            made: found.into_iter().filter_map(mine).collect(),
        }
    }

    /// A checkpoint was saved.
    pub fn saved(&mut self, path: &Path) {
        self.made.retain(|made| made != path);
        self.made.push(path.to_owned());
    }

    /// Deletes the oldest until `limit` are left; the newest and `best` always stay.
    pub fn rotate(&mut self, limit: usize, best: Option<&Path>) -> Result<()> {
        // Whoever deletes one by hand gains room.
        self.made.retain(|path| path.is_dir());
        let counted = self.made.iter().filter(|path| !self.is_kept(path)).count();
        let mut excess = counted.saturating_sub(limit.max(1));
        let mut at = 0;
        while excess > 0 && at + 1 < self.made.len() {
            if best == Some(self.made[at].as_path()) || self.is_kept(&self.made[at]) {
                at += 1;
                continue;
            }
            Checkpoint::delete(&self.made.remove(at))?;
            excess -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(run: &Path, rotation: &mut Rotation, step: u64) {
        let path = Checkpoint::write(run, step, |_| Ok(())).unwrap();
        rotation.saved(&path);
    }

    fn steps(run: &Path) -> Vec<u64> {
        let found = Checkpoint::list(run).unwrap();
        found.into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn best_and_last_stay() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let mut rotation = Rotation::default();
        for step in [5, 10, 15, 100] {
            save(run, &mut rotation, step);
        }
        let best = Checkpoint::path(run, 5);
        rotation.rotate(3, Some(&best)).unwrap();
        assert_eq!(steps(run), [5, 15, 100]);
        rotation.rotate(1, Some(&best)).unwrap();
        assert_eq!(steps(run), [5, 100]);
        rotation.rotate(1, None).unwrap();
        assert_eq!(steps(run), [100]);
        rotation.rotate(0, None).unwrap();
        assert_eq!(steps(run), [100]);
    }

    #[test]
    fn what_is_kept_stays_and_does_not_count() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let mut rotation = Rotation::default();
        for step in [1, 2, 3, 4] {
            save(run, &mut rotation, step);
        }
        rotation.keep(&Checkpoint::path(run, 1), true).unwrap();
        rotation.rotate(2, None).unwrap();
        assert_eq!(steps(run), [1, 3, 4]);
        rotation.keep(&Checkpoint::path(run, 1), false).unwrap();
        rotation.rotate(2, None).unwrap();
        assert_eq!(steps(run), [3, 4]);
        let gone = rotation.keep(&Checkpoint::path(run, 1), true);
        assert!(
            gone.unwrap_err()
                .to_string()
                .contains("no checkpoint of this run")
        );
    }

    #[test]
    fn checkpoints_of_others_are_not_counted_and_not_deleted() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        for step in [90, 100] {
            save(run, &mut Rotation::default(), step);
        }
        let mut rotation = Rotation::default();
        for step in [1, 2, 3] {
            save(run, &mut rotation, step);
            rotation.rotate(1, None).unwrap();
            assert_eq!(steps(run), [step, 90, 100]);
        }
        // One of theirs is replaced: it is this run's from there on.
        save(run, &mut rotation, 90);
        rotation.rotate(1, None).unwrap();
        assert_eq!(steps(run), [90, 100]);
        save(run, &mut rotation, 91);
        rotation.rotate(1, None).unwrap();
        assert_eq!(steps(run), [91, 100]);
    }

    #[test]
    fn a_resumed_run_counts_what_it_comes_from() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        for (step, id) in [(2, "me"), (3, "other"), (4, "me"), (6, "me")] {
            let state = TrainerState {
                run_id: id.to_owned(),
                ..TrainerState::default()
            };
            let write = |dir: &Path| state.write(dir);
            Checkpoint::write(run, step, write).unwrap();
        }
        let mut rotation = Rotation::resumed(run, "me", 4);
        save(run, &mut rotation, 5);
        rotation.rotate(2, None).unwrap();
        assert_eq!(steps(run), [3, 4, 5, 6]);
    }
}
