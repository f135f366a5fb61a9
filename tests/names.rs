//! `core` names no component: it finds them in the registry, by the names of a configuration. The few that a run has of
//! which nothing is said stand in one file. Comments, and so the help of flags, may name some as examples.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The file of defaults.
const DEFAULTS: &str = "core/components/src/config/defaults.rs";

/// Names of components that are ordinary words too: of code, of mathematics, of JSON and rows, endings of files. They
/// name a component only where one is made of them. So do the forms of weights that an export is called after.
const WORDS: &[&str] = &[
    "adapter",
    "all",
    "bf16",
    "constant",
    "cosine",
    "default",
    "gguf",
    "json",
    "jsonl",
    "linear",
    "lora",
    // A value of init_weights, as PEFT names it.
    "pissa",
    "merged",
    "messages",
    "mxfp4",
    "random",
    "sequential",
    "tokens",
    "vllm",
];

/// What else has the name of a component: where, and what it is.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "core/components/src/config",
        "group_by_length",
        "a flag of transformers",
    ),
    (
        "core/engine/src/train/resume",
        "group_by_length",
        "the same flag",
    ),
    ("core/kernels/src/table.rs", "adamw", "a kernel"),
    ("core/kernels/src/table.rs", "cross_entropy", "a kernel"),
    (
        "core/model/src/ops",
        "adamw",
        "an operation that any optimizer may use",
    ),
    (
        "core/model/src/ops",
        "cross_entropy",
        "an operation that any loss may use",
    ),
    ("core/engine/src/host", "adamw", "the same operation"),
    (
        "core/engine/src/host",
        "cross_entropy",
        "the same operation",
    ),
    ("core/engine/src/bench/ops", "adamw", "the same operation"),
    (
        "core/engine/src/bench/ops",
        "cross_entropy",
        "the same operation",
    ),
    (
        "core/engine/src/train/batch.rs",
        "cross_entropy",
        "the same operation",
    ),
    (
        "core/engine/src/train",
        "token_acc",
        "a number in every line of the log, by ms-swift's name",
    ),
    (
        "core/components/src/config/table",
        "token_acc",
        "the same number",
    ),
    (
        "core/components/src/config/table",
        "tensorboard",
        "ms-swift's default",
    ),
    (
        "core/components/src/config/table",
        "sgd",
        "transformers' name",
    ),
    (
        "core/components/src/config/table",
        "sharegpt",
        "a shape of rows",
    ),
    (
        "core/components/src/config/table",
        "reduce_lr_on_plateau",
        "ms-swift's name",
    ),
    (
        "core/components/src/config/table",
        "cosine_warmup_with_min_lr",
        "ms-swift's name",
    ),
    (
        "core/components/src/config/table",
        "adafactor",
        "transformers' name",
    ),
    (
        "core/components/src/config/table",
        "muon",
        "transformers' name",
    ),
    (
        "core/components/src/config/table",
        "galore",
        "ms-swift's name",
    ),
    (
        "core/components/src/config/table",
        "adamw_8bit",
        "transformers' name",
    ),
    (
        "core/components/src/config/table",
        "schedule_free_adamw",
        "transformers' name",
    ),
    (
        "core/components/src/plugin/process/loss_scale.rs",
        "last_round",
        "a base of loss scales",
    ),
    (
        "core/components/src/config/ms_swift",
        "adafactor",
        "an argument of ms-swift",
    ),
    (
        "core/engine/src/plugin_check/dataset_format.rs",
        "sharegpt",
        "a shape of rows",
    ),
    (
        "core/engine/src/plugin_check/dataset_format.rs",
        "alpaca",
        "a shape of rows",
    ),
    ("core/engine/src", "console", "a crate"),
    ("core/data/src", "console", "a crate"),
];

/// A piece of source code.
#[derive(Debug, PartialEq)]
enum Piece {
    Name(String),
    Text(String),
}

/// The names and the literal texts of a source file, without its comments and what follows `#[cfg(test)]` at the start of
/// a line.
fn pieces(source: &str) -> Vec<Piece> {
    let source = source.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = 2 + hashes;
            match rest.get(begin..).and_then(|text| text.find(&end)) {
                Some(at) => {
                    found.push(Piece::Text(rest[begin..begin + at].to_owned()));
                    begin + at + end.len()
                }
                None => 2,
            }
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| match (c, std::mem::take(&mut escaped)) {
                ('\\', false) => {
                    escaped = true;
                    false
                }
                (c, escaped) => c == '"' && !escaped,
            });
            let end = 1 + end.expect("a text ends");
            found.push(Piece::Text(rest[1..end].to_owned()));
            end + 1
        } else if first == '\'' {
            // A letter, or a lifetime.
            let letter = match rest[1..].strip_prefix('\\') {
                Some(escape) => escape.find('\'').map(|at| at + 3 + usize::from(at == 0)),
                None => rest
                    .char_indices()
                    .nth(2)
                    .filter(|(_, c)| *c == '\'')
                    .map(|(at, _)| at + 1),
            };
            letter.unwrap_or(1)
        } else if first.is_alphabetic() || first == '_' {
            let word = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default();
            found.push(Piece::Name(word.to_owned()));
            word.len()
        } else {
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

#[test]
fn code_is_read_in_pieces() {
    let code = "let a = 'x'; // swanlab\nlet b: &'static str = \"c\\\"d\"; r#\"e \"f\"\"#; '\\''\n#[cfg(test)]\nmod tests {}";
    let name = |text: &str| Piece::Name(text.to_owned());
    let text = |text: &str| Piece::Text(text.to_owned());
    let expected = [
        name("let"),
        name("a"),
        name("let"),
        name("b"),
        name("static"),
        name("str"),
        text("c\\\"d"),
        text("e \"f\""),
    ];
    assert_eq!(pieces(code), expected);
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|name| name.to_str()) {
            _ if path.is_dir() => sources(&path, found),
            Some(name) if name.ends_with(".rs") && name != "tests.rs" => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn core_names_no_component() {
    apus_plugins::link();
    let ids: BTreeSet<&str> = apus_sdk::components()
        .map(|component| component.name)
        .collect();
    assert!(ids.len() > 30 && ids.contains("swanlab"), "{ids:?}");
    let mut files = Vec::new();
    for part in fs::read_dir(Path::new(ROOT).join("core")).unwrap() {
        sources(&part.unwrap().path().join("src"), &mut files);
    }
    assert!(files.len() > 200, "{}", files.len());
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    for path in files.iter().filter(|path| !path.ends_with(DEFAULTS)) {
        let file = path.strip_prefix(ROOT).unwrap().to_string_lossy();
        let code = pieces(&fs::read_to_string(path).unwrap());
        for (at, piece) in code.iter().enumerate() {
            let words: Vec<&str> = match piece {
                Piece::Name(name) => vec![name],
                Piece::Text(text) => text
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .collect(),
            };
            // `Spec::named("all")`
            let makes =
                |before: &Piece| matches!(before, Piece::Name(name) if name.ends_with("named"));
            let is_made = words.len() == 1 && at > 0 && makes(&code[at - 1]);
            for id in words.into_iter().filter(|word| ids.contains(word)) {
                let is_word = !is_made && WORDS.contains(&id);
                let mut others = OTHERS.iter();
                let other =
                    others.position(|(place, name, _)| file.starts_with(place) && *name == id);
                used.extend(other);
                if !is_word && other.is_none() {
                    found.push(format!("{file}: {id} in {piece:?}"));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "core names components:\n{}",
        found.join("\n")
    );
    let gone = (0..OTHERS.len()).find(|at| !used.contains(at));
    assert_eq!(gone.map(|at| OTHERS[at]), None, "an exception for nothing");
}
