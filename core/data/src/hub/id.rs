//! Parses ids of repositories in `--model` and `--dataset`:
//! `[hf::|ms::]owner/name[@revision][:subset1/subset2|:all]`.

use std::path::{Path, PathBuf};

/// A site that serves repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// huggingface.co, or what HF_ENDPOINT names.
    HuggingFace,
    /// modelscope.cn, or what MODELSCOPE_DOMAIN names.
    ModelScope,
}

/// Which parts of a dataset are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subsets {
    /// The default one.
    Default,
    /// Every one.
    All,
    /// The subsets of these names.
    Named(Vec<String>),
}

/// A repository of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// The site, if it is written.
    pub site: Option<Site>,
    /// `owner/name`.
    pub name: String,
    /// The branch, tag or commit, if it is written.
    pub revision: Option<String>,
    /// Subsets of a dataset.
    pub subsets: Subsets,
}

/// What the value of `--model` or `--dataset` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A path that exists.
    Path(PathBuf),
    /// An id.
    Id(Id),
    /// It is neither a path that exists nor an id.
    Neither,
}

/// Decides what a value means; a path that exists comes first.
pub(super) fn meaning(word: &str) -> Meaning {
    let (site, rest) = split_site(word);
    for path in [word, rest] {
        if Path::new(path).exists() {
            return Meaning::Path(PathBuf::from(path));
        }
    }
    match parse(site, rest) {
        Some(id) => Meaning::Id(id),
        None => Meaning::Neither,
    }
}

pub(crate) fn split_site(word: &str) -> (Option<Site>, &str) {
    let site = |name: &str| match name.to_ascii_lowercase().as_str() {
        "hf" => Some(Site::HuggingFace),
        "ms" => Some(Site::ModelScope),
        _ => None,
    };
    match word.split_once("::") {
        Some((name, rest)) if site(name).is_some() => (site(name), rest),
        _ => (None, word),
    }
}

fn parse(site: Option<Site>, text: &str) -> Option<Id> {
    let (rest, subsets) = match text.split_once(':') {
        Some((rest, "all")) => (rest, Subsets::All),
        Some((rest, names)) => {
            let names: Vec<String> = names.split('/').map(str::to_owned).collect();
            (rest, Subsets::Named(names))
        }
        None => (text, Subsets::Default),
    };
    let (name, revision) = match rest.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (rest, None),
    };
    let (owner, last) = name.split_once('/')?;
    let named = |subsets: &Subsets| match subsets {
        Subsets::Named(names) => names.iter().all(|name| !name.is_empty()),
        _ => true,
    };
    let good = is_name(owner)
        && is_name(last)
        && revision.is_none_or(|revision| revision.split('/').all(is_name))
        && named(&subsets);
    good.then(|| Id {
        site,
        name: name.to_owned(),
        revision: revision.map(str::to_owned),
        subsets,
    })
}

/// Whether a part of an id has only letters, digits, `-`, `_` and `.` and does not begin with a dot, so that it cannot
/// lead out of a folder.
pub(super) fn is_name(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(fits)
}

/// The name in the same folder that is most like one that does not exist.
pub(super) fn nearest_here(word: &str) -> Option<String> {
    let path = Path::new(split_site(word).1);
    let wanted = path.file_name()?.to_string_lossy();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|found| (strsim::jaro_winkler(&found, &wanted), found))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, found)| match folder {
            Some(folder) => folder.join(found).display().to_string(),
            None => found,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(word: &str) -> Id {
        match meaning(word) {
            Meaning::Id(id) => id,
            other => panic!("{word}: {other:?}"),
        }
    }

    #[test]
    fn ids_as_ms_swift_writes_them() {
        let plain = id("openai/gpt-oss-20b");
        assert_eq!(
            (plain.site, plain.name.as_str()),
            (None, "openai/gpt-oss-20b")
        );
        assert_eq!(plain.subsets, Subsets::Default);
        let full = id("HF::a/b.c@refs/pr/1:en/fr");
        assert_eq!(full.site, Some(Site::HuggingFace));
        assert_eq!(
            (full.name.as_str(), full.revision.as_deref()),
            ("a/b.c", Some("refs/pr/1"))
        );
        assert_eq!(full.subsets, Subsets::Named(vec!["en".into(), "fr".into()]));
        assert_eq!(id("ms::a/b:all").subsets, Subsets::All);
        for word in [
            "nope",
            "/no/model",
            "./a/b",
            "a/b/c",
            "a/../b",
            "a/b:",
            "a/b@",
            "a b/c",
            "",
        ] {
            assert_eq!(meaning(word), Meaning::Neither, "{word}");
        }
    }

    #[test]
    fn what_exists_comes_first() {
        let here = std::fs::read_dir(".").unwrap().next().unwrap().unwrap();
        let name = here.file_name().to_string_lossy().into_owned();
        assert_eq!(meaning(&name), Meaning::Path(PathBuf::from(&name)));
        assert_eq!(
            meaning(&format!("ms::{name}")),
            Meaning::Path(PathBuf::from(&name))
        );
        assert_eq!(nearest_here("src/hup").as_deref(), Some("src/hub"));
    }
}
