//! Chooses the files of a repository that are needed.

use super::id::Subsets;
use super::readme::{DataFiles, Readme};
use anyhow::{Result, bail, ensure};
use apus_base::wording;
use std::collections::BTreeMap;

/// The files of a tokenizer and its template.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// The extensions of data files that can be read.
const DATA: &[&str] = &["jsonl", "json", "csv", "txt", "parquet"];

/// Files with these extensions that hold no data, as in Hugging Face's `datasets`.
const NO_DATA: &[&str] = &[
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "requirements.txt",
    "state.json",
];

/// Words for the part to train on.
const TRAIN: &[&str] = &["train", "training"];
/// Words for other parts.
const OTHER: &[&str] = &[
    "validation",
    "valid",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
    "evaluation",
];

/// Files of a model: configuration, weights, tokenizer. What lies in folders (`original/`, `metal/`)
/// is the same model in other formats.
pub(super) fn model(names: &[String]) -> Result<Vec<String>> {
    let needed = |name: &str| {
        let weights =
            name.ends_with(".safetensors") && !name.contains('/') && !name.starts_with("adapter_");
        let known = ["config.json", "model.safetensors.index.json"].contains(&name);
        weights || known || TOKENIZER.contains(&name)
    };
    let chosen = pick(names, &needed);
    ensure!(
        chosen.iter().any(|name| name == "config.json")
            && chosen.iter().any(|name| name.ends_with(".safetensors")),
        "holds no config.json with safetensors, found {}",
        some(names)
    );
    Ok(chosen)
}

/// Files of a tokenizer.
pub(super) fn tokenizer(names: &[String]) -> Result<Vec<String>> {
    let chosen = pick(names, &|name| TOKENIZER.contains(&name));
    ensure!(
        chosen.iter().any(|name| name == "tokenizer.json"),
        "holds no tokenizer.json, found {}",
        some(names)
    );
    Ok(chosen)
}

fn pick(names: &[String], needed: &dyn Fn(&str) -> bool) -> Vec<String> {
    names.iter().filter(|name| needed(name)).cloned().collect()
}

/// Files of a dataset's part to train on: those that its README names for the subset, or else by the
/// names of files and folders, as Hugging Face's `datasets` goes about it.
pub(super) fn dataset(names: &[String], readme: &Readme, subsets: &Subsets) -> Result<Vec<String>> {
    let data: Vec<String> = names
        .iter()
        .filter(|name| extension(name).is_some())
        .cloned()
        .collect();
    ensure!(
        !data.is_empty(),
        "holds no data files ({}), found {}",
        DATA.join(", "),
        some(names)
    );
    let mut chosen = match (subsets, readme.subsets.is_empty()) {
        (Subsets::Default, true) => by_split(most_common(&data))?,
        (Subsets::All, true) => by_split(data)?,
        (Subsets::Default, false) => {
            let Some(default) = readme.default_subset() else {
                bail!(
                    "has several subsets: name some after a colon (:{}), or write :all",
                    known(readme).join("/")
                );
            };
            named(&data, &readme.subsets[default].1)?
        }
        (Subsets::All, false) => {
            let all = readme.subsets.iter().map(|(_, files)| named(&data, files));
            all.collect::<Result<Vec<_>>>()?.concat()
        }
        (Subsets::Named(wanted), _) => {
            let each = wanted
                .iter()
                .map(|subset| subset_files(&data, readme, subset));
            each.collect::<Result<Vec<_>>>()?.concat()
        }
    };
    let mut seen = std::collections::BTreeSet::new();
    chosen.retain(|name| seen.insert(name.clone()));
    Ok(chosen)
}

fn subset_files(data: &[String], readme: &Readme, subset: &str) -> Result<Vec<String>> {
    if let Some((_, files)) = readme.subsets.iter().find(|(name, _)| name == subset) {
        return named(data, files);
    }
    let of_it = |name: &&String| {
        name.split('/')
            .any(|part| part == subset || stem(part) == subset)
    };
    let found: Vec<String> = data.iter().filter(of_it).cloned().collect();
    if !found.is_empty() {
        return by_split(most_common(&found));
    }
    match readme.subsets.is_empty() {
        true => bail!(
            "has no subset `{subset}`: no folder or file has that name, found {}",
            some(data)
        ),
        false => bail!(
            "has no subset `{subset}`, there are {}",
            known(readme).join(", ")
        ),
    }
}

fn known(readme: &Readme) -> Vec<&str> {
    readme
        .subsets
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

/// The files that patterns of a README mean.
fn named(data: &[String], files: &DataFiles) -> Result<Vec<String>> {
    if files.is_empty() {
        return by_split(most_common(data));
    }
    let train = files.iter().find(|(split, _)| split == "train");
    let Some((_, patterns)) = train else {
        let splits: Vec<&str> = files.iter().map(|(split, _)| split.as_str()).collect();
        bail!(
            "has no part `train`, only {}; download the file and give its path",
            splits.join(", ")
        );
    };
    let found: Vec<String> = data
        .iter()
        .filter(|name| {
            patterns
                .iter()
                .any(|pattern| super::readme::matches(pattern, name))
        })
        .cloned()
        .collect();
    ensure!(
        !found.is_empty(),
        "its README names {}, which matches no data file; found {}",
        patterns.join(", "),
        some(data)
    );
    Ok(found)
}

/// The files for training; if none is named so, all that are not named for another split.
fn by_split(data: Vec<String>) -> Result<Vec<String>> {
    let has = |name: &str, words: &[&str]| {
        let lower = name.to_ascii_lowercase();
        lower
            .split(|c: char| !c.is_ascii_alphabetic())
            .any(|part| words.contains(&part))
    };
    let train: Vec<String> = data
        .iter()
        .filter(|name| has(name, TRAIN))
        .cloned()
        .collect();
    let rest: Vec<String> = data
        .iter()
        .filter(|name| !has(name, OTHER))
        .cloned()
        .collect();
    match (train.is_empty(), rest.is_empty()) {
        (false, _) => Ok(train),
        (true, false) => Ok(rest),
        (true, true) => bail!(
            "has no part to train on, only {}; download the file and give its path",
            some(&data)
        ),
    }
}

/// The files of the most common extension, so that rows that are stored in two formats are read once.
fn most_common(data: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in data {
        *counts
            .entry(extension(name).unwrap_or_default())
            .or_default() += 1;
    }
    let rank = |kind: &str| DATA.iter().position(|known| *known == kind);
    let best = counts
        .iter()
        .max_by_key(|(kind, count)| (**count, std::cmp::Reverse(rank(kind))));
    let best = best.map(|(kind, _)| *kind);
    data.iter()
        .filter(|name| extension(name) == best)
        .cloned()
        .collect()
}

/// The extension of a data file without that of its compression.
pub(super) fn extension(name: &str) -> Option<&'static str> {
    let (folders, last) = name.rsplit_once('/').unwrap_or(("", name));
    let hidden = |part: &str| part.starts_with('.') || part.starts_with("__");
    if NO_DATA.contains(&last) || hidden(last) || folders.split('/').any(hidden) {
        return None;
    }
    let lower = last.to_ascii_lowercase();
    let plain = lower
        .strip_suffix(".gz")
        .or_else(|| lower.strip_suffix(".zst"))
        .unwrap_or(&lower);
    let (_, kind) = plain.rsplit_once('.')?;
    DATA.iter().copied().find(|known| *known == kind)
}

fn stem(part: &str) -> &str {
    part.split('.').next().unwrap_or(part)
}

/// A few names, for an error.
fn some(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => wording::some(names, 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn chosen(files: &str, readme: &str, subsets: &Subsets) -> String {
        match dataset(&names(files), &Readme::parse(readme).unwrap(), subsets) {
            Ok(found) => found.join(" "),
            Err(error) => format!("{error:#}"),
        }
    }

    fn plain(files: &str) -> String {
        chosen(files, "", &Subsets::Default)
    }

    #[test]
    fn a_model_without_its_other_formats() {
        let all = names(
            ".gitattributes LICENSE README.md chat_template.jinja config.json generation_config.json metal/model.bin \
             model-00000-of-00002.safetensors model-00001-of-00002.safetensors model.safetensors.index.json \
             original/model.safetensors special_tokens_map.json tokenizer.json tokenizer_config.json",
        );
        let found = model(&all).unwrap();
        assert_eq!(found.len(), 9, "{found:?}");
        assert!(found.iter().all(|name| !name.contains('/')));
        assert_eq!(tokenizer(&all).unwrap().len(), 5);
        let error = model(&names("README.md pytorch_model.bin"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no config.json") && error.contains("pytorch_model.bin"),
            "{error}"
        );
    }

    #[test]
    fn the_part_to_train_on_by_names() {
        assert_eq!(plain("README.md a.jsonl b.jsonl"), "a.jsonl b.jsonl");
        assert_eq!(plain("train.jsonl.gz test.jsonl.gz"), "train.jsonl.gz");
        assert_eq!(
            plain(
                "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet data/test-00000-of-00001.parquet"
            ),
            "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet"
        );
        assert_eq!(
            plain("rows.json dev.json .x/y.json dataset_infos.json"),
            "rows.json"
        );
        assert_eq!(plain("a.csv a.jsonl b.jsonl"), "a.jsonl b.jsonl");
        assert_eq!(plain("a.csv a.jsonl"), "a.jsonl");
        assert!(plain("test.jsonl").contains("no part to train on, only test.jsonl"));
        assert!(plain("script.py").contains("holds no data files"));
    }

    #[test]
    fn subsets_by_readme_or_by_folder() {
        let readme = "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/*.jsonl\n\
            \x20 - split: test\n    path: x.jsonl\n- config_name: de\n  data_files: \"de/**\"\n  default: true\n---\n";
        let files = "en/a.jsonl en/b.jsonl de/q/c.jsonl x.jsonl";
        let named = |name: &str| Subsets::Named(vec![name.to_owned()]);
        assert_eq!(chosen(files, readme, &named("en")), "en/a.jsonl en/b.jsonl");
        assert_eq!(chosen(files, readme, &Subsets::Default), "de/q/c.jsonl");
        assert_eq!(
            chosen(files, readme, &Subsets::All),
            "en/a.jsonl en/b.jsonl de/q/c.jsonl"
        );
        assert!(chosen(files, readme, &named("fr")).contains("no subset `fr`, there are en, de"));
        let open = readme.replace("  default: true\n", "");
        assert!(
            chosen(files, &open, &Subsets::Default)
                .contains("several subsets: name some after a colon (:en/de)")
        );
        assert_eq!(chosen(files, "", &named("de")), "de/q/c.jsonl");
        assert_eq!(chosen(files, "", &named("x")), "x.jsonl");
        assert!(chosen(files, "", &named("fr")).contains("no folder or file has that name"));
    }
}
