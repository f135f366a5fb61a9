//! `--resume_from_checkpoint true`: the newest checkpoint that is whole.

use super::super::checkpoint::Checkpoint;
use super::super::run_folder::is_version;
use super::super::state::{TrainerState, time_text};
use super::Resume;
use anyhow::{Result, bail};
use apus_base::lines::{info, warning};
use apus_components::config::SftConfig;
use std::fs;
use std::path::{Path, PathBuf};

/// The newest whole checkpoint of the runs in this folder, or of the one that it is.
///
/// # Errors
/// There is none; the error says which there are and what each lacks.
pub fn find(home: &Path, config: &SftConfig) -> Result<Resume> {
    let mut passed = Vec::new();
    for dir in by_age(&runs(home)) {
        match Resume::at(&dir, config) {
            Ok(found) => {
                passed
                    .iter()
                    .for_each(|line| warning!("resume: passing over {line}"));
                info!("resume: from {}", dir.display());
                return Ok(found);
            }
            Err(error) => passed.push(format!("{error:#}")),
        }
    }
    match passed.is_empty() {
        true => bail!(
            "resume_from_checkpoint is true, and {} holds no checkpoint; leave it out to begin a run",
            home.display()
        ),
        false => bail!(
            "resume_from_checkpoint is true, and {} holds no whole checkpoint:\n  {}",
            home.display(),
            passed.join("\n  ")
        ),
    }
}

/// Whole checkpoints beside this one, for messages.
pub fn beside(dir: &Path, config: &SftConfig) -> String {
    let run = dir.parent().map(Path::to_owned);
    let others = by_age(run.as_slice())
        .into_iter()
        .filter(|other| other != dir);
    let whole: Vec<String> = others
        .filter(|other| Resume::at(other, config).is_ok())
        .map(|other| other.display().to_string())
        .collect();
    match whole.as_slice() {
        [] => String::new(),
        whole => format!("; there is also {}", whole.join(", ")),
    }
}

/// A folder of runs, and the runs in it.
fn runs(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let versions = entries
        .map(|entry| entry.path())
        .filter(|path| is_version(path));
    std::iter::once(home.to_owned()).chain(versions).collect()
}

/// The checkpoints of these runs, newest first: by when they were saved, since the number in the name of one does
/// not tell.
fn by_age(runs: &[PathBuf]) -> Vec<PathBuf> {
    let lists = runs.iter().filter_map(|run| Checkpoint::list(run).ok());
    let mut all: Vec<_> = lists
        .flatten()
        .map(|(step, path)| (saved(&path), step, path))
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    all.into_iter().map(|(_, _, path)| path).collect()
}

/// When a checkpoint was saved, as the text that orders so; of one that does not tell, when its folder was changed.
fn saved(dir: &Path) -> String {
    let told = TrainerState::read(dir).map(|state| state.saved);
    told.ok()
        .filter(|saved| !saved.is_empty())
        .unwrap_or_else(|| {
            let changed = fs::metadata(dir).and_then(|metadata| metadata.modified());
            changed.map_or_else(|_| String::new(), |time| time_text(time.into()))
        })
}
