//! Where ranks other than 0 print: a file each.
//!
//! A rank that the launcher has started prints to a folder for temporary files until the run has one of its own, where its
//! file belongs ([`move_to`]). In its old place it leaves a link, by which the launcher finds the last lines of a rank that
//! failed. A run that fails before it has a folder keeps the file where it was.

use crate::place::{Role, role};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The variable that tells ranks where they print.
pub(crate) const OUTPUTS: &str = "APUS_RANK_OUTPUTS";

/// The file of [`last_words`].
const LAST_WORDS: &str = "last-words";

/// The folder of these files in the folder of a run.
const OF_RUN: &str = "ranks";

/// Lines that are shown of the file of a rank that failed.
const LAST_LINES: usize = 5;

/// The files to which ranks print, `rank-N.log`.
pub fn output(outputs: &Path, rank: usize) -> PathBuf {
    outputs.join(format!("rank-{rank}.log"))
}

/// Lets this process print to a file of its own from now on, if it is a rank other than 0 that this program's launcher has
/// started. What other launchers start prints where they say.
///
/// # Errors
/// The file cannot be made.
pub fn print_apart() -> Result<()> {
    let Some((outputs, rank)) = own()? else {
        return Ok(());
    };
    fs::create_dir_all(&outputs)
        .with_context(|| format!("{}: cannot be made", outputs.display()))?;
    let path = output(&outputs, rank);
    let file =
        File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
    print_to(&file)
}

/// Lets this process go on printing in the folder of its run, with what it has printed so far. Nothing happens to a rank that
/// does not print apart, or on a host that has no such folder.
///
/// # Errors
/// The file cannot be written; the rank prints where it did before.
pub fn move_to(run: &Path) -> Result<()> {
    match own()? {
        Some((outputs, rank)) if run.is_dir() => {
            moved(&output(&outputs, rank), &run.join(OF_RUN), rank, print_to).map(drop)
        }
        _ => Ok(()),
    }
}

/// The folder and the rank of a process that prints apart.
fn own() -> Result<Option<(PathBuf, usize)>> {
    let Some(outputs) = std::env::var_os(OUTPUTS) else {
        return Ok(None);
    };
    Ok(match role()? {
        Role::Rank(place) if place.rank > 0 => Some((outputs.into(), place.rank)),
        _ => None,
    })
}

/// Tells the launcher why a run has ended, in place of whoever is gone; only the first rank of a host that does is heard. This
/// way and not through the terminal, because mpirun may end before it has passed on what ranks print at their end. Whether
/// there is a launcher to be told.
pub fn last_words(text: &str) -> bool {
    let Some(outputs) = std::env::var_os(OUTPUTS) else {
        return false;
    };
    let outputs = Path::new(&outputs);
    let draft = outputs.join(format!("{LAST_WORDS}-{}", std::process::id()));
    let told = fs::create_dir_all(outputs)
        .and_then(|()| fs::write(&draft, text))
        .and_then(|()| match fs::hard_link(&draft, outputs.join(LAST_WORDS)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => fs::remove_file(&draft),
        });
    told.is_ok()
}

/// What ranks have told the launcher, once.
pub(crate) fn take_last_words(outputs: &Path) -> Option<String> {
    let path = outputs.join(LAST_WORDS);
    let text = fs::read_to_string(&path).ok()?;
    fs::remove_file(&path).ok()?;
    Some(text)
}

fn print_to(file: &File) -> Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// Moves a rank's file into a folder, where `switch` lets the rank print on, and leaves a link. Returns the new path.
fn moved(
    old: &Path,
    folder: &Path,
    rank: usize,
    switch: impl FnOnce(&File) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let (path, mut file) = fresh(folder, rank)?;
    let mut before =
        File::open(old).with_context(|| format!("{}: cannot be read", old.display()))?;
    let copied = io::copy(&mut before, &mut file).map_err(Into::into);
    if let Err(error) = copied.and_then(|_| switch(&file)) {
        // A part of it is of no use.
        let _ = fs::remove_file(&path);
        return Err(error.context(format!("{}: cannot be written", path.display())));
    }
    // What another thread has printed meanwhile.
    io::copy(&mut before, &mut file)?;
    let target = std::path::absolute(&path)?;
    fs::remove_file(old)
        .and_then(|()| symlink(target, old))
        .with_context(|| format!("{}: cannot be replaced by a link", old.display()))?;
    Ok(path)
}

/// A new file of a rank. A run that goes on in the same folder finds those of its beginning there: `rank-1.log` is followed by
/// `rank-1.2.log`.
fn fresh(folder: &Path, rank: usize) -> Result<(PathBuf, File)> {
    for part in 1..=u32::MAX {
        let path = match part {
            1 => output(folder, rank),
            part => folder.join(format!("rank-{rank}.{part}.log")),
        };
        match File::options().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{}: cannot be written", path.display()));
            }
        }
    }
    bail!("{}: no name is free for rank {rank}", folder.display())
}

/// Where the output of a rank is, with its last lines.
pub(crate) fn last_lines(outputs: &Path, rank: usize) -> String {
    let file = output(outputs, rank);
    let file = file.canonicalize().unwrap_or(file);
    let text = fs::read(&file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let shown: String = last.iter().map(|line| format!("\n    {line}")).collect();
    format!("its output is in {}{shown}", file.display())
}

/// Takes away what nobody needs when all ranks have ended: links, and files of ranks that have printed nothing.
pub(crate) fn tidy(outputs: &Path) {
    let Ok(entries) = fs::read_dir(outputs) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(facts) = entry.path().symlink_metadata() else {
            continue;
        };
        if facts.is_symlink() || facts.is_file() && facts.len() == 0 {
            let _ = fs::remove_file(entry.path());
        }
    }
    // It stays if a file does.
    let _ = fs::remove_dir(outputs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Files of the folder of a run, with their texts.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let file = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read_to_string(entry.path()).unwrap())
        };
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(file).collect();
        files.sort();
        files
    }

    #[test]
    fn output_goes_on_in_the_folder_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let (outputs, run) = (dir.path().join("outputs"), dir.path().join("run"));
        for part in ["first", "second"] {
            fs::create_dir_all(&outputs).unwrap();
            let mut old = File::create(output(&outputs, 1)).unwrap();
            writeln!(old, "{part}: before").unwrap();
            let mut late = None;
            let switch = |file: &File| {
                // Another thread, that has not heard of it yet.
                writeln!(old, "{part}: meanwhile")?;
                late = Some(file.try_clone()?);
                Ok(())
            };
            moved(&output(&outputs, 1), &run, 1, switch).unwrap();
            writeln!(late.unwrap(), "{part}: after").unwrap();
            let shown = last_lines(&outputs, 1);
            assert!(shown.contains("run/rank-1."), "{shown}");
            assert!(shown.ends_with(&format!("\n    {part}: after")), "{shown}");
            tidy(&outputs);
            assert!(!outputs.exists());
        }
        let text = |part: &str| format!("{part}: before\n{part}: meanwhile\n{part}: after\n");
        assert_eq!(
            files(&run),
            [
                ("rank-1.2.log".to_owned(), text("second")),
                ("rank-1.log".to_owned(), text("first")),
            ]
        );
    }

    #[test]
    fn what_cannot_be_moved_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (outputs, run) = (dir.path().join("outputs"), dir.path().join("run"));
        fs::create_dir_all(&outputs).unwrap();
        fs::write(output(&outputs, 1), "kept\n").unwrap();
        fs::write(output(&outputs, 2), "").unwrap();
        let refuse = |_: &File| bail!("no descriptor is free");
        let error = moved(&output(&outputs, 1), &run, 1, refuse).unwrap_err();
        assert!(
            format!("{error:#}").ends_with("rank-1.log: cannot be written: no descriptor is free")
        );
        assert!(files(&run).is_empty());
        tidy(&outputs);
        assert_eq!(
            files(&outputs),
            [("rank-1.log".to_owned(), "kept\n".to_owned())]
        );
    }
}
