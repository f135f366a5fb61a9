//! Replaces a folder by another one.

use anyhow::Result;
use std::fs;
use std::path::Path;

/// Replaces the folder `target`, if it exists, by the folder `new`.
///
/// `target` is first renamed to `aside` and deleted in the end. So `target` is always one of the two folders, complete;
/// only between the two renames it is missing.
///
/// # Errors
/// The disk failed; `target` is as it was, unless only `aside` could not be deleted.
pub fn replace(target: &Path, new: &Path, aside: &Path) -> Result<()> {
    if !target.exists() {
        return Ok(fs::rename(new, target)?);
    }
    if aside.exists() {
        fs::remove_dir_all(aside)?;
    }
    fs::rename(target, aside)?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(aside, target)?;
        return Err(error.into());
    }
    Ok(fs::remove_dir_all(aside)?)
}

/// Puts in order what a process left that was killed while it replaced `target`: the old folder comes back if nothing has its
/// place yet, and is deleted if the new one has it.
///
/// # Errors
/// The disk failed.
pub fn recover(target: &Path, aside: &Path) -> Result<()> {
    match (aside.exists(), target.exists()) {
        (false, _) => Ok(()),
        (true, false) => Ok(fs::rename(aside, target)?),
        (true, true) => Ok(fs::remove_dir_all(aside)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_one_takes_the_place_or_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let [target, new, aside] = ["target", "new", "aside"].map(|name| dir.path().join(name));
        let text = || fs::read_to_string(target.join("a")).unwrap();
        for content in ["one", "two"] {
            fs::create_dir(&new).unwrap();
            fs::write(new.join("a"), content).unwrap();
            replace(&target, &new, &aside).unwrap();
            assert_eq!(text(), content);
            assert!(!new.exists() && !aside.exists());
        }
        assert!(replace(&target, &new, &aside).is_err());
        assert_eq!(text(), "two");
        assert!(!aside.exists());
    }
}
