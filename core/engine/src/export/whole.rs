//! A folder that appears when it is complete: written beside its place, and renamed.

use anyhow::{Context, Result, bail, ensure};
use apus_base::{folder, memory};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A folder to write.
pub struct Output<'a> {
    /// Where.
    pub dir: &'a Path,
    /// Whether it may replace a folder of the same kind. Otherwise one that is there is an error.
    pub replace: bool,
    /// What it holds, in a word for messages.
    pub kind: &'a str,
    /// The names of files that a folder of the kind may hold. One with other files is never replaced.
    pub holds: &'a dyn Fn(&str) -> bool,
    /// Bytes of what is written.
    pub bytes: u64,
}

/// Writes a folder; `fill` writes its files into the folder that it is given. What is there stays as it is until the new one is whole.
///
/// # Errors
/// The folder may not be replaced, another process writes it, the disk has not enough space, or `fill` or the disk failed; nothing is
/// left behind then.
pub fn write(output: &Output, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = output.dir;
    let parent = dir
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let [temporary, aside] = parts(dir)?;
    folder::recover(dir, &aside).with_context(|| aside.display().to_string())?;
    if dir.exists() {
        ensure!(
            output.replace,
            "{}: exists already; choose another folder, or give --exist_ok true",
            dir.display()
        );
        only(output)?;
    }
    let there = parent.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    enough(output.bytes, memory::disk(there), there)
        .with_context(|| format!("{}: cannot be written", dir.display()))?;
    let _alone = staging(&temporary)?;
    let attempt = || -> Result<()> {
        fill(&temporary)?;
        for file in fs::read_dir(&temporary)? {
            File::open(file?.path())?.sync_all()?;
        }
        File::open(&temporary)?.sync_all()?;
        folder::replace(dir, &temporary, &aside)?;
        Ok(File::open(parent)?.sync_all()?)
    };
    attempt()
        .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
        .with_context(|| {
            format!(
                "{}: cannot be written; nothing is left behind",
                dir.display()
            )
        })
}

/// The folders beside a folder that is written: the new one until it is whole, the old one until it is deleted.
pub(super) fn parts(dir: &Path) -> Result<[PathBuf; 2]> {
    let name = dir
        .file_name()
        .context("the output folder has no name")?
        .to_string_lossy();
    Ok(["tmp", "old"].map(|end| dir.with_file_name(format!(".{name}.{end}"))))
}

/// Makes the folder in which something is written until it is whole, without what a killed process left there. As long as the
/// file lives nobody else clears it.
///
/// # Errors
/// Another process writes there now, or the disk failed.
pub(super) fn staging(temporary: &Path) -> Result<File> {
    let locked = || -> Result<File> {
        let folder = File::open(temporary)?;
        match folder.try_lock() {
            Ok(()) => Ok(folder),
            Err(TryLockError::WouldBlock) => bail!("another process writes there now"),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(folder),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    };
    let make = || -> Result<File> {
        if temporary.exists() {
            let _left = locked()?;
            fs::remove_dir_all(temporary)?;
        }
        fs::create_dir_all(temporary)?;
        locked()
    };
    make().with_context(|| temporary.display().to_string())
}

/// Checks that a disk has the space that files need, where the system tells.
fn enough(need: u64, free: Option<u64>, disk: &Path) -> Result<()> {
    let free = free.unwrap_or(u64::MAX);
    ensure!(
        need <= free,
        "the weights take {}, and the disk of {} has {} left; free some, or give another --output_dir",
        memory::gib(need),
        disk.display(),
        memory::gib(free)
    );
    Ok(())
}

/// Refuses to replace a folder that holds anything of another kind.
fn only(output: &Output) -> Result<()> {
    let (dir, kind) = (output.dir, output.kind);
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(
            (output.holds)(&name) && !entry.path().is_dir(),
            "{}: holds {name}, which is no part of {kind}, and is not replaced; choose another folder",
            dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_enough_or_not() {
        let dir = Path::new(".");
        assert!(enough(5, Some(5), dir).is_ok() && enough(5, None, dir).is_ok());
        let error = enough(6, Some(5), dir).unwrap_err().to_string();
        assert!(error.contains("another --output_dir"), "{error}");
    }
}
