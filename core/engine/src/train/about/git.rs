//! The state of a repository, from its own files: no `git` has to be installed, and none is started.

use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// `remote_url`, `branch` and `commit` of the repository that a folder is in.
pub fn find(dir: &Path) -> Option<Map<String, Value>> {
    let git = dir.ancestors().find_map(|dir| folder(&dir.join(".git")))?;
    // A worktree keeps branches and configuration in the main repository.
    let common = match read(&git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git.clone(),
    };
    let mut found = Map::new();
    let head = read(&git.join("HEAD")).ok()?;
    let commit = match head.trim().strip_prefix("ref: ") {
        Some(name) => {
            let branch = name.strip_prefix("refs/heads/").unwrap_or(name);
            found.insert("branch".to_owned(), branch.into());
            commit(&common, name)
        }
        None => Some(head.trim().to_owned()),
    };
    if let Some(commit) = commit {
        found.insert("commit".to_owned(), commit.into());
    }
    let config = read(&common.join("config")).unwrap_or_default();
    if let Some(url) = remote(&config) {
        found.insert("remote_url".to_owned(), url.into());
    }
    Some(found)
}

/// `.git`, or where a file of that name points.
fn folder(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let text = read(path).ok()?;
    Some(path.parent()?.join(text.trim().strip_prefix("gitdir: ")?))
}

fn read(path: &Path) -> apus_sdk::Result<String> {
    small_file::text(path, Limit::STORED)
}

fn commit(git: &Path, name: &str) -> Option<String> {
    if let Ok(commit) = read(&git.join(name)) {
        return Some(commit.trim().to_owned());
    }
    let packed = read(&git.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| {
        let (commit, of) = line.split_once(' ')?;
        (of == name).then(|| commit.to_owned())
    })
}

/// The address of `origin`, without a password or token in it.
fn remote(config: &str) -> Option<String> {
    let of_origin = config
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != r#"[remote "origin"]"#);
    let url = of_origin
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("url")?.trim_start().strip_prefix('='))?
        .trim();
    Some(match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn branch_commit_and_remote() {
        let dir = tempfile::tempdir().unwrap();
        let git = dir.path().join(".git");
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::create_dir_all(dir.path().join("deep/er")).unwrap();
        let write = |name: &str, text: &str| fs::write(git.join(name), text).unwrap();
        write("HEAD", "ref: refs/heads/main\n");
        write("packed-refs", "# pack-refs\nabc refs/heads/main\n");
        write(
            "config",
            "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://me:key@example.org/a/b.git\n",
        );
        let find = || find(&dir.path().join("deep/er")).unwrap();
        assert_eq!(find()["branch"], "main");
        assert_eq!(find()["commit"], "abc");
        assert_eq!(find()["remote_url"], "https://example.org/a/b.git");
        write("refs/heads/main", "def\n");
        assert_eq!(find()["commit"], "def");
        write("HEAD", "123\n");
        assert_eq!(find()["commit"], "123");
        assert!(!find().contains_key("branch"));
    }

    #[test]
    fn a_worktree_points_to_its_repository() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("main/.git/worktrees/side");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(dir.path().join("side")).unwrap();
        fs::write(own.join("HEAD"), "ref: refs/heads/side\n").unwrap();
        fs::write(own.join("commondir"), "../..\n").unwrap();
        fs::write(
            dir.path().join("main/.git/packed-refs"),
            "abc refs/heads/side\n",
        )
        .unwrap();
        fs::write(
            dir.path().join("side/.git"),
            format!("gitdir: {}\n", own.display()),
        )
        .unwrap();
        assert_eq!(find(&dir.path().join("side")).unwrap()["commit"], "abc");
    }
}
