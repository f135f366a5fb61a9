//! Small inputs that other trainers take wrongly in silence, each with what it must give here.
//!
//! A case is an input below `tests/cases/<ground>/`, named by the kind of fault, and beside it
//! `<name>.expect.json` (see [`Expectation`]). The grounds `rows`, `parquet` and `tables` are datasets and
//! go through `apus data`; a case of `adapters` is the folder of an adapter and is merged by
//! `apus export`. An input without an expectation fails, and so does an expectation without its input.

mod common;

use common::{apus, fails, folder, text, words};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");
const SUFFIX: &str = ".expect.json";
/// The lowest id of a control token in that model.
const FIRST_CONTROL: u64 = 740;

/// What a case must give: `error`, or `same_as`, or `samples`; `says` goes with each.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Expectation {
    /// Why this is right, for people.
    #[allow(dead_code)]
    why: String,
    /// Words added to the command line.
    arguments: String,
    /// The command fails and says each of these.
    error: Vec<String>,
    /// What is printed has each of these.
    says: Vec<String>,
    /// Ids, labels and weights are those of this file of the same ground.
    same_as: Option<String>,
    /// The prepared samples, in their order.
    samples: Option<Vec<Sample>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    /// The rendered text from the first message after the system message on.
    text: String,
    /// The stretches of it that are trained, one after another; where the weight is not 1, `[text, weight]`.
    trained: Vec<Stretch>,
    /// What else the rendered text has, the system message included.
    #[serde(default)]
    has: Vec<String>,
    /// How many of its ids are control tokens, which text that looks like one is not.
    control: Option<usize>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Stretch {
    Whole(String),
    Weighted(String, f64),
}

/// The inputs of a ground by their paths, each with its expectation.
fn cases(ground: &str) -> Vec<(PathBuf, Expectation)> {
    let dir = Path::new(CASES).join(ground);
    let names: BTreeSet<String> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let stem = |name: &str| name.split('.').next().unwrap().to_owned();
    let (expected, inputs): (BTreeSet<_>, BTreeSet<_>) =
        names.iter().partition(|name| name.ends_with(SUFFIX));
    let stems = |names: &BTreeSet<&String>| names.iter().map(|name| stem(name)).collect();
    let (expected, known): (BTreeSet<String>, BTreeSet<String>) =
        (stems(&expected), stems(&inputs));
    assert_eq!(known, expected, "{ground}: inputs and expectations");
    let read = |name: &&String| {
        let path = dir.join(stem(name) + SUFFIX);
        let file = fs::read_to_string(&path).unwrap();
        let expectation = serde_json::from_str(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (dir.join(name), expectation)
    };
    inputs.iter().map(read).collect()
}

/// The rows of `apus data --out`, and what was printed; or what was printed where it failed.
fn prepared(input: &Path, arguments: &str) -> Result<(Vec<Value>, String), String> {
    let name = input.strip_prefix(CASES).unwrap().to_string_lossy();
    let out = folder(&format!("cases-{}", name.replace('/', "-"))).join("out.jsonl");
    let input = input.display();
    let line = format!(
        "data {input} --model {MODEL} --current_date 2025-08-05 --out {} {arguments}",
        out.display()
    );
    let output = apus(&words(&line), &[]);
    let said = text(&output);
    assert!(!said.contains("apus has a bug"), "{input}: {said}");
    match output.status.success() {
        true => {
            let rows = fs::read_to_string(&out).unwrap();
            let rows = rows.lines().map(|row| serde_json::from_str(row).unwrap());
            Ok((rows.collect(), said))
        }
        false => Err(said),
    }
}

/// Where the text after the system message begins.
fn after_system(text: &str) -> &str {
    match text.strip_prefix("<|start|>system<|message|>") {
        Some(rest) => rest.split_once("<|end|>").unwrap().1,
        None => text,
    }
}

fn trained(row: &Value) -> Vec<Stretch> {
    let stretches = row["segments"].as_array().unwrap().iter();
    let stretch = |part: &Value| {
        let text = part["text"].as_str().unwrap().to_owned();
        match part["weight"].as_f64() {
            None | Some(0.0) => None,
            Some(1.0) => Some(Stretch::Whole(text)),
            Some(weight) => Some(Stretch::Weighted(text, weight)),
        }
    };
    stretches.filter_map(stretch).collect()
}

fn has_all(what: &Path, said: &str, parts: &[String]) {
    for part in parts {
        assert!(
            said.contains(part),
            "{}: {part:?} not in:\n{said}",
            what.display()
        );
    }
}

fn check_dataset(input: &Path, expected: &Expectation) {
    let at = input.display();
    let found = prepared(input, &expected.arguments);
    let (rows, said) = match (found, expected.error.as_slice()) {
        (Err(said), [_, ..]) => {
            assert!(said.contains("error: "), "{at}: {said}");
            has_all(input, &said, &expected.error);
            return has_all(input, &said, &expected.says);
        }
        (Err(said), []) => panic!("{at} is refused:\n{said}"),
        (Ok((rows, said)), []) => (rows, said),
        (Ok((rows, said)), _) => panic!("{at} is not refused, it gives {rows:?}\n{said}"),
    };
    has_all(input, &said, &expected.says);
    if let Some(other) = &expected.same_as {
        let (others, _) = prepared(&input.with_file_name(other), &expected.arguments).unwrap();
        assert_eq!(rows, others, "{at} and {other}");
    }
    let Some(samples) = &expected.samples else {
        assert!(
            expected.same_as.is_some(),
            "{at}: nothing is expected of it"
        );
        return;
    };
    assert_eq!(rows.len(), samples.len(), "{at}: {rows:?}\n{said}");
    for (row, sample) in rows.iter().zip(samples) {
        let text = row["text"].as_str().unwrap();
        assert_eq!(after_system(text), sample.text, "{at}: text");
        assert_eq!(
            trained(row),
            sample.trained,
            "{at}: what is trained of {text}"
        );
        has_all(input, text, &sample.has);
        if let Some(count) = sample.control {
            let ids = row["input_ids"].as_array().unwrap().iter();
            let control = ids.filter(|id| id.as_u64() >= Some(FIRST_CONTROL));
            assert_eq!(control.count(), count, "{at}: control tokens of {text}");
        }
    }
}

/// Merging an adapter that must not be taken says why, and leaves nothing behind.
fn check_adapter(input: &Path, expected: &Expectation) {
    let name = input.file_name().unwrap().to_string_lossy();
    let out = folder(&format!("cases-adapters-{name}")).join("merged");
    let input = input.display();
    let line = format!(
        "export --model {MODEL} --adapters {input} --merge_lora true --output_dir {} {}",
        out.display(),
        expected.arguments
    );
    assert!(!expected.error.is_empty(), "{input}: no error is expected");
    let parts: Vec<&str> = expected.error.iter().map(String::as_str).collect();
    fails(&line, 1, &parts);
    assert!(!out.exists(), "{input}: something was written");
}

#[test]
fn every_case_gives_what_it_must() {
    let mut count = 0;
    for ground in fs::read_dir(CASES).unwrap() {
        let ground = ground.unwrap().file_name().into_string().unwrap();
        for (input, expected) in cases(&ground) {
            match ground.as_str() {
                "adapters" => check_adapter(&input, &expected),
                _ => check_dataset(&input, &expected),
            }
            count += 1;
        }
    }
    assert!(count > 0);
}
