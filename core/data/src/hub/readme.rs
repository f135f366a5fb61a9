//! Reads the subsets of a dataset from the `configs` in the front matter of its README.

use anyhow::{Context, Result};
use regex::Regex;
use yaml_rust2::{Yaml, YamlLoader};

/// Patterns of files by split.
pub(super) type DataFiles = Vec<(String, Vec<String>)>;

/// The subsets of a dataset.
#[derive(Debug, Default)]
pub(super) struct Readme {
    /// The name and files of each subset.
    pub subsets: Vec<(String, DataFiles)>,
    default: Option<usize>,
}

impl Readme {
    /// Parses the text of README.md.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some(front) = front_matter(text) else {
            return Ok(Self::default());
        };
        let documents =
            YamlLoader::load_from_str(front).context("README.md: malformed front matter")?;
        let configs = documents.first().and_then(|all| all["configs"].as_vec());
        let mut found = Self::default();
        for config in configs.into_iter().flatten() {
            let Some(name) = text_of(&config["config_name"]) else {
                continue;
            };
            if config["default"].as_bool() == Some(true) {
                found.default = Some(found.subsets.len());
            }
            let folder = text_of(&config["data_dir"]);
            let mut files = data_files(&config["data_files"]);
            if let Some(folder) = folder.as_deref().map(|dir| dir.trim_matches('/')) {
                if files.is_empty() {
                    files.push(("train".to_owned(), vec!["**".to_owned()]));
                }
                let patterns = files.iter_mut().flat_map(|(_, patterns)| patterns);
                patterns.for_each(|pattern| *pattern = format!("{folder}/{pattern}"));
            }
            found.subsets.push((name, files));
        }
        Ok(found)
    }

    /// The subset that is used if none is named: the one marked or named as default, or the only one.
    pub(super) fn default_subset(&self) -> Option<usize> {
        let called = || self.subsets.iter().position(|(name, _)| name == "default");
        let alone = || (self.subsets.len() == 1).then_some(0);
        self.default.or_else(called).or_else(alone)
    }
}

fn front_matter(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches('\u{feff}').strip_prefix("---")?;
    rest.split("\n---").next()
}

/// One pattern, a list of them (both are the part `train`), or a list of `split` and `path`.
fn data_files(value: &Yaml) -> DataFiles {
    let Some(items) = value.as_vec() else {
        return patterns(value)
            .map(|all| ("train".to_owned(), all))
            .into_iter()
            .collect();
    };
    match patterns(value) {
        Some(all) if !all.is_empty() => vec![("train".to_owned(), all)],
        _ => items
            .iter()
            .filter_map(|item| Some((text_of(&item["split"])?, patterns(&item["path"])?)))
            .collect(),
    }
}

fn patterns(value: &Yaml) -> Option<Vec<String>> {
    match value {
        Yaml::Array(items) => items.iter().map(text_of).collect(),
        value => Some(vec![text_of(value)?]),
    }
}

fn text_of(value: &Yaml) -> Option<String> {
    match value {
        Yaml::Integer(number) => Some(number.to_string()),
        value => value.as_str().map(str::to_owned),
    }
}

/// Whether a pattern matches a file: `*` and `?` stay within a folder, `**` does not; a folder matches
/// all files in it.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    let mut text = String::from("^");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let (piece, used) = match c {
            _ if rest.starts_with("**/") => ("(?:.*/)?".to_owned(), 3),
            _ if rest.starts_with("**") => (".*".to_owned(), 2),
            '*' => ("[^/]*".to_owned(), 1),
            '?' => ("[^/]".to_owned(), 1),
            c => (regex::escape(c.encode_utf8(&mut [0; 4])), c.len_utf8()),
        };
        text += &piece;
        rest = &rest[used..];
    }
    text += "(?:/.*)?$";
    Regex::new(&text).is_ok_and(|regex| regex.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_as_in_shells() {
        for (pattern, name, fits) in [
            ("data/train-*", "data/train-0.parquet", true),
            ("data/train-*", "data/more/train-0.parquet", false),
            ("**/a.jsonl", "a.jsonl", true),
            ("**/a.jsonl", "x/y/a.jsonl", true),
            ("data", "data/x/y.json", true),
            ("./d?ta/*.json", "data/x.json", true),
            ("a.json", "abjson", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn front_matter_in_its_forms() {
        let text = "---\nlicense: mit\nconfigs:\n- config_name: 2024\n  data_dir: y24\n- config_name: default\n  data_files: [a.json, b.json]\n---\n# Title\n---\n";
        let readme = Readme::parse(text).unwrap();
        let train = |patterns: &[&str]| {
            vec![(
                "train".to_owned(),
                patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(),
            )]
        };
        assert_eq!(readme.subsets[0], ("2024".to_owned(), train(&["y24/**"])));
        assert_eq!(readme.subsets[1].1, train(&["a.json", "b.json"]));
        assert_eq!(readme.default_subset(), Some(1));
        assert!(
            Readme::parse("# No front matter")
                .unwrap()
                .subsets
                .is_empty()
        );
        assert!(Readme::parse("---\na: [\n---\n").is_err());
    }
}
