//! The folder of a run: made, taken, and freed of what a killed run left in it.

use super::checkpoint::Checkpoint;
use anyhow::{Context, Result, bail};
use apus_base::lines::info;
use apus_components::config::SftConfig;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The file whose lock says that a run works in the folder.
const LOCK: &str = ".lock";

/// A folder that nobody else's run works in, as long as this lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The operating system lets go of the lock when the process ends, however it does.
    _lock: Option<File>,
    /// Whether nothing is in it yet that anybody would miss.
    fresh: bool,
}

impl RunFolder {
    /// `<output_dir>/v{N}-{time}`, or `output_dir` itself without `add_version`.
    ///
    /// # Errors
    /// It cannot be made, or a run works in it.
    pub fn take(config: &SftConfig) -> Result<Self> {
        let home = Path::new(&config.output_dir);
        let fresh = config.add_version || !home.exists();
        fs::create_dir_all(home).with_context(|| format!("{}: cannot be made", home.display()))?;
        let path = match config.add_version {
            true => new_version(home)?,
            false => home.to_owned(),
        };
        let lock = lock(&path)?;
        Checkpoint::clean(&path)?;
        Ok(Self {
            path,
            _lock: lock,
            fresh,
        })
    }

    /// The run begins, and its folder stays.
    pub fn keep(&mut self) {
        self.fresh = false;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Warns where the folder holds checkpoints of another run than the one that is resumed.
    pub fn warn_of_other_runs(&self, resumed: Option<&Path>) {
        let ours = resumed
            .and_then(Path::parent)
            .and_then(|run| run.canonicalize().ok());
        if ours.is_some() && ours == self.path.canonicalize().ok() {
            return;
        }
        let others = Checkpoint::list(&self.path).unwrap_or_default();
        if let (Some((first, _)), Some((last, _))) = (others.first(), others.last()) {
            info!(
                "note: {} holds checkpoints of another run (steps {first} to {last}): they stay and save_total_limit \
                 does not count them, but one of the same number is replaced",
                self.path.display()
            );
        }
    }
}

/// A run that was refused leaves no folder.
impl Drop for RunFolder {
    fn drop(&mut self) {
        let only_ours = || {
            let mut entries = fs::read_dir(&self.path)?.flatten();
            std::io::Result::Ok(entries.all(|entry| entry.file_name() == LOCK))
        };
        if self.fresh && only_ours().unwrap_or(false) {
            let _ = fs::remove_file(self.path.join(LOCK));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Whether a folder is called as the runs in `output_dir` are.
pub fn is_version(path: &Path) -> bool {
    path.is_dir() && version(path).is_some()
}

fn version(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix('v')?;
    name.split('-').next()?.parse().ok()
}

fn new_version(home: &Path) -> Result<PathBuf> {
    loop {
        let entries = fs::read_dir(home).with_context(|| home.display().to_string())?;
        let versions = entries.flatten().filter_map(|entry| version(&entry.path()));
        let next = versions.max().map_or(0, |last| last + 1);
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S");
        let dir = home.join(format!("v{next}-{time}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            // Another run began in the same second.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{}: cannot be made", dir.display()));
            }
        }
    }
}

/// Locks a folder. Where the file system knows no locks nothing is locked.
fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{}: cannot be made", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            // For people, and for the message to whoever comes next.
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            let _ = write(&mut file);
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let _ = file.read_to_string(&mut process);
            bail!(
                "{}: another run works in this folder (process {}); two would overwrite each other's files. Give \
                 another --output_dir, or leave add_version true",
                dir.display(),
                process.trim()
            )
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(home: &Path, add_version: bool) -> SftConfig {
        SftConfig {
            output_dir: home.display().to_string(),
            add_version,
            ..SftConfig::default()
        }
    }

    #[test]
    fn one_run_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path(), false);
        let first = RunFolder::take(&config).unwrap();
        assert_eq!(first.path(), home.path());
        let error = RunFolder::take(&config).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(
            error.contains("another run works in this folder") && error.contains(&process),
            "{error}"
        );
        drop(first);
        RunFolder::take(&config).unwrap();
    }

    #[test]
    fn versions_count_up() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path(), true);
        let mut folders: Vec<RunFolder> =
            (0..3).map(|_| RunFolder::take(&config).unwrap()).collect();
        for (number, folder) in folders.iter_mut().enumerate() {
            assert_eq!(version(folder.path()), Some(number as u64));
            assert!(is_version(folder.path()));
            folder.keep();
        }
        assert!(!is_version(home.path()));
        // One that was refused leaves nothing, one that began its folder.
        drop(folders);
        drop(RunFolder::take(&config).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_a_killed_run_left_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let left = home.path().join(".checkpoint-5.tmp");
        fs::create_dir(&left).unwrap();
        RunFolder::take(&config(home.path(), false)).unwrap();
        assert!(!left.exists());
    }
}
