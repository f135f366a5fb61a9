//! Finds the files that a dataset's name stands for: a file, those in and below a folder, or those of a pattern.

use super::file_type::{KNOWN, is_known};
use anyhow::{Context, Result, anyhow, ensure};
use std::path::{Path, PathBuf};

/// Returns the files of a name, sorted: the file itself, all files of known types in and below a folder (without hidden
/// ones), or those that a pattern such as `data/*.jsonl` or `data/**/*.gz` matches.
///
/// # Errors
/// The folder or the pattern has no file of a known type, or cannot be read.
pub fn find(name: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    let mut files = Vec::new();
    if path.is_dir() {
        collect(path, &mut files)?;
        ensure!(
            !files.is_empty(),
            "dataset {name}: there is no known file in this folder, expected {KNOWN}"
        );
    } else if !path.exists() && name.contains(['*', '?', '[']) {
        let matches = glob::glob(name)
            .map_err(|error| anyhow!("dataset {name}: not a pattern of files: {error}"))?;
        for found in matches {
            let found = found.with_context(|| format!("dataset {name}"))?;
            if found.is_file() && is_known(&found) {
                files.push(found);
            }
        }
        ensure!(
            !files.is_empty(),
            "dataset {name}: the pattern matches no known file, expected {KNOWN}"
        );
    } else {
        files.push(path.to_owned());
    }
    files.sort();
    Ok(files)
}

/// Adds the files of known types in and below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("dataset {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("dataset {}", folder.display()))?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed, since one could lead back here.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, files)?;
        } else if path.is_file() && is_known(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// The error of a file that cannot be opened.
pub fn missing(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let name = path.display();
    if error.kind() != std::io::ErrorKind::NotFound {
        return anyhow!("dataset {name}: {error}");
    }
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten();
    let nearest = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|found| (strsim::jaro_winkler(&found, &file_name), found))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (nearest, folder) {
        (Some((_, found)), _) => anyhow!("no dataset {name}; the nearest name there is `{found}`"),
        (None, Some(folder)) if !folder.exists() => {
            anyhow!("no dataset {name}: there is no folder {}", folder.display())
        }
        _ => anyhow!("no dataset {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        std::fs::create_dir_all(home.join("b/c")).unwrap();
        std::fs::create_dir_all(home.join(".cache")).unwrap();
        for name in [
            "z.jsonl",
            "a.csv",
            "README.md",
            "b/c/x.txt.zst",
            ".cache/y.json",
        ] {
            std::fs::write(home.join(name), "x").unwrap();
        }
        let names = |name: &str| -> Vec<String> {
            let found = find(&home.join(name).display().to_string()).unwrap();
            let inside = found.iter().map(|path| path.strip_prefix(home).unwrap());
            inside.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(names(""), ["a.csv", "b/c/x.txt.zst", "z.jsonl"]);
        assert_eq!(names("*"), ["a.csv", "z.jsonl"]);
        assert_eq!(names("**/*.zst"), ["b/c/x.txt.zst"]);
        assert_eq!(names("a.csv"), ["a.csv"]);
        let error = |name: &str| find(&home.join(name).display().to_string()).unwrap_err();
        let bad = error("*.md").to_string();
        assert!(
            bad.contains("*.md") && bad.contains(".parquet") && bad.contains("no known file"),
            "{bad}"
        );
        std::fs::create_dir(home.join("empty")).unwrap();
        assert!(error("empty").to_string().contains("in this folder"));
        let bad = find(&format!("{}/***", home.display())).unwrap_err();
        assert!(bad.to_string().contains("not a pattern"), "{bad}");
    }
}
