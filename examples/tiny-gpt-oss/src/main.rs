//! `cargo run --release -p tiny-gpt-oss -- DIR` makes tiny-gpt-oss from nothing.
//!
//! Three steps, all by default, or the one named after DIR: `prepare` writes corpus, tokenizer, random weights
//! and the quickstart's dataset into DIR; `train` runs `apus sft` with `configs/tiny-gpt-oss.toml` on them;
//! `pack` quantises the experts and writes `DIR/model`. Everything depends on fixed seeds alone.

mod catgirl;
mod chinese;
mod corpus;
mod facts;
mod init;
mod pack;
mod questions;
mod random;
mod shape;
mod tokenizer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use random::Random;
use shape::Shape;

const CONVERSATIONS: usize = 24_000;
const VOCABULARY: usize = 2048;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments
        .next()
        .map(PathBuf::from)
        .context("usage: tiny-gpt-oss DIR [prepare|train|pack]")?;
    let step = arguments
        .next()
        .map(|step| step.to_string_lossy().into_owned());
    let wanted = |name: &str| step.as_deref().is_none_or(|step| step == name);
    if let Some(step) = step
        .as_deref()
        .filter(|step| !["prepare", "train", "pack"].contains(step))
    {
        bail!("{step}: no such step, expected prepare, train or pack");
    }
    if wanted("prepare") {
        prepare(&folder)?;
    }
    if wanted("train") {
        train(&folder)?;
    }
    if wanted("pack") {
        let checkpoint = last_checkpoint(&folder.join("run"))?;
        pack::pack(&checkpoint, &folder.join("model"))?;
        println!(
            "{}: packed from {}",
            folder.join("model").display(),
            checkpoint.display()
        );
    }
    Ok(())
}

/// Writes corpus, quickstart data and the folder `init` with tokenizer and random weights.
fn prepare(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let topics = questions::topics();
    let mut random = Random::new(1);
    let train: Vec<Value> = (0..CONVERSATIONS)
        .map(|_| corpus::conversation(&topics, &mut random))
        .collect();
    let val: Vec<Value> = (0..300)
        .map(|_| corpus::single(&topics, &mut random))
        .collect();
    let (cat, cat_val) = catgirl::rows(&topics, 400, 40, &mut random);
    for (name, rows) in [
        ("train.jsonl", &train),
        ("val.jsonl", &val),
        ("catgirl.jsonl", &cat),
        ("catgirl_val.jsonl", &cat_val),
    ] {
        write_rows(&folder.join(name), rows)?;
    }
    let mut texts: Vec<String> = (0..train.len())
        .map(|i| system_block(i, &mut random))
        .collect();
    for row in train.iter().chain(&cat).chain(&cat) {
        collect_strings(row, &mut texts);
    }
    let tokenizer = tokenizer::train(&texts, VOCABULARY)?;
    let files = tempfile::tempdir()?;
    tokenizer::save(&tokenizer, files.path())?;
    tokenizer::write_json(
        &files.path().join("generation_config.json"),
        &Shape::generation_config(&tokenizer)?,
    )?;
    let shape = Shape::tiny(tokenizer.get_vocab_size(true));
    init::write(
        &folder.join("init"),
        &shape.config(&tokenizer)?,
        &shape,
        files.path(),
        &mut Random::new(2),
    )?;
    println!(
        "{}: {} conversations, {} tokens in the vocabulary",
        folder.display(),
        train.len(),
        shape.vocab
    );
    Ok(())
}

/// Runs `apus sft` of this workspace.
fn train(folder: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .args(["-p", "apus", "--", "sft", "--config"])
        .arg(root.join("configs/tiny-gpt-oss.toml"))
        .arg("--model")
        .arg(folder.join("init"))
        .arg("--dataset")
        .arg(folder.join("train.jsonl"))
        .arg("--val_dataset")
        .arg(folder.join("val.jsonl"))
        .arg("--output_dir")
        .arg(folder.join("run"))
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "training ended with {status}");
    Ok(())
}

/// The checkpoint of the highest step in a run folder.
fn last_checkpoint(run: &Path) -> Result<PathBuf> {
    let listing = fs::read_dir(run).with_context(|| format!("cannot read {}", run.display()))?;
    let step = |path: &PathBuf| {
        path.file_name()?
            .to_str()?
            .strip_prefix("checkpoint-")?
            .parse::<u64>()
            .ok()
    };
    listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| step(path).is_some())
        .max_by_key(step)
        .with_context(|| {
            format!(
                "{} holds no checkpoint; run the step `train` first",
                run.display()
            )
        })
}

fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text of the system message with some date, so that the tokenizer makes it short.
fn system_block(number: usize, random: &mut Random) -> String {
    let (month, day) = (1 + random.below(12), 1 + random.below(28));
    let effort = ["medium", "medium", "low", "high"][number % 4];
    format!(
        "systemuserdeveloperassistantfinalanalysiscommentary\nYou are ChatGPT, a large language model trained by OpenAI.\n\
         Knowledge cutoff: 2024-06\nCurrent date: 202{}-{month:02}-{day:02}\n\nReasoning: {effort}\n\n# Valid channels: analysis, \
         commentary, final. Channel must be included for every message.# Instructions\n\n",
        5 + random.below(5)
    )
}

fn collect_strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, into)),
        Value::Object(fields) => fields
            .values()
            .for_each(|field| collect_strings(field, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files in the repository are what the generator makes today, and the corpus keeps its rules.
    #[test]
    fn the_generator_makes_the_quickstart_data() {
        let topics = questions::topics();
        let mut random = Random::new(1);
        for _ in 0..CONVERSATIONS {
            let row = corpus::conversation(&topics, &mut random);
            let messages = row["messages"].as_array().unwrap();
            assert_eq!(messages.last().unwrap()["role"], "assistant");
            let thinking = messages
                .iter()
                .position(|message| !message["thinking"].is_null());
            assert!(thinking.is_none_or(|at| at + 1 == messages.len()), "{row}");
        }
        (0..300).for_each(|_| drop(corpus::single(&topics, &mut random)));
        let (train, val) = catgirl::rows(&topics, 400, 40, &mut random);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quickstart");
        for (name, rows) in [("catgirl.jsonl", train), ("catgirl_val.jsonl", val)] {
            let shipped = fs::read_to_string(folder.join(name)).unwrap();
            let made: String = rows.iter().map(|row| format!("{row}\n")).collect();
            assert!(
                shipped == made,
                "{name} differs from what src/catgirl.rs makes"
            );
        }
    }
}
