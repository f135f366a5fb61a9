//! What `deepspeed`, `fsdp` and `shard_base` mean: which parts of a run are sharded, that is spread over its ranks.
//!
//! DeepSpeed and FSDP are engines, and Apus has its own. Of their configurations counts how far a run is to be sharded, and
//! what would train something else than the flags say, which is an error as in transformers. How their engines go about it
//! has no meaning here; a line names what was not used.

mod deepspeed;
mod fsdp;
#[cfg(test)]
mod tests;

use super::{SftConfig, ShardBase, TrainType};
use crate::similar::did_you_mean;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::path::Path;

/// Which parts of a run are spread over its ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// Optimizer state and gradients are: from zero1 on.
    pub optimizer: bool,
    /// Whether the frozen base is.
    pub base: ShardBase,
    /// Lines that say what was read and what it means here.
    pub notes: Vec<String>,
}

/// What `deepspeed` or `fsdp` ask for, whatever the number of ranks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// In their words: `deepspeed zero2`.
    by: String,
    optimizer: bool,
    base: bool,
    notes: Vec<String>,
}

/// What a run of this many ranks shards.
///
/// # Errors
/// What is asked for is unknown, contradicts itself or the flags; the error names the key.
pub fn sharding(config: &SftConfig, ranks: usize) -> Result<Sharding> {
    deepspeed::check_global_batch(config, ranks)?;
    let asked = asked(config)?;
    let optimizer = asked.optimizer && ranks > 1;
    let base = match config.shard_base {
        _ if ranks == 1 || config.train_type == TrainType::Full => ShardBase::False,
        Some(given) => given,
        None if asked.base => ShardBase::Auto,
        None => ShardBase::False,
    };
    let flag = config.shard_base.map(|base| format!("shard_base {base}"));
    let by = Some(asked.by).filter(|by| !by.is_empty());
    let by: Vec<String> = by.into_iter().chain(flag).collect();
    let mut notes = asked.notes;
    if !by.is_empty() {
        let meaning = meaning(ranks, optimizer, base);
        notes.push(format!("{}: {meaning}", by.join(", ")));
    }
    Ok(Sharding {
        optimizer,
        base,
        notes,
    })
}

fn meaning(ranks: usize, optimizer: bool, base: ShardBase) -> String {
    let state = "optimizer state and gradients";
    let where_needed = "where the whole does not fit a card";
    match (optimizer, base) {
        _ if ranks == 1 => "one process trains, so that nothing is sharded".to_owned(),
        (true, ShardBase::True) => {
            format!("{state} and the frozen base are sharded over {ranks} ranks")
        }
        (true, ShardBase::Auto) => {
            format!("{state} are sharded over {ranks} ranks, and the frozen base {where_needed}")
        }
        (true, ShardBase::False) => {
            format!("{state} are sharded over {ranks} ranks, each of which holds the whole model")
        }
        (false, ShardBase::True) => format!("the frozen base is sharded over {ranks} ranks"),
        (false, ShardBase::Auto) => {
            format!("the frozen base is sharded over {ranks} ranks {where_needed}")
        }
        (false, ShardBase::False) => {
            "nothing is sharded: every rank holds the whole model and its state".to_owned()
        }
    }
}

/// What the flags ask for; nothing where neither of the two is given.
fn asked(config: &SftConfig) -> Result<Asked> {
    let fsdp = fsdp::asked(config)?;
    match (deepspeed::asked(config)?, fsdp) {
        (Some(_), Some(_)) => bail!("deepspeed and fsdp are both given; keep one of them"),
        (Some(asked), None) | (None, Some(asked)) => Ok(asked),
        (None, None) => Ok(Asked::default()),
    }
}

impl SftConfig {
    /// Reads the files that `deepspeed`, `fsdp` and `fsdp_config` name into their places, so that args.json holds what
    /// counted and ranks compare it.
    pub(super) fn read_sharding(&mut self) -> Result<()> {
        read_file("deepspeed", &mut self.deepspeed, deepspeed::is_word)?;
        read_file("fsdp", &mut self.fsdp, fsdp::is_words)?;
        read_file("fsdp_config", &mut self.fsdp_config, |_| false)
    }

    /// Checks what is sharded, as far as it does not depend on the number of ranks.
    pub(super) fn check_sharding(&self) -> Result<()> {
        ensure!(
            self.shard_base != Some(ShardBase::True) || self.train_type != TrainType::Full,
            "shard_base is true and train_type full, which trains all there is, so that there is no frozen base; leave \
             shard_base out"
        );
        asked(self).map(drop)
    }
}

/// A text that is no word of the flag is the path of a JSON file, which takes its place.
fn read_file(flag: &str, value: &mut Value, is_word: impl Fn(&str) -> bool) -> Result<()> {
    let path = match value {
        Value::String(text) if NOTHING.contains(&text.to_ascii_lowercase().as_str()) => {
            *value = Value::Null;
            return Ok(());
        }
        Value::String(text) if !is_word(text) || Path::new(text.as_str()).is_file() => text.clone(),
        _ => return Ok(()),
    };
    let known = match flag {
        "deepspeed" => deepspeed::words(),
        "fsdp" => fsdp::words(),
        _ => Vec::new(),
    };
    ensure!(
        Path::new(&path).is_file(),
        "{flag} is {path:?}, expected {}JSON, or the path of a JSON file, which is not there{}",
        known
            .iter()
            .map(|word| format!("{word}, "))
            .collect::<String>(),
        did_you_mean(&path, &known)
    );
    let text = small_file::text(Path::new(&path), Limit::WRITTEN)
        .with_context(|| format!("{flag} is {path}"))?;
    let table: Map<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("{flag} is {path}: expected a file with a JSON object"))?;
    *value = Value::Object(table);
    Ok(())
}

/// Texts that ask for nothing.
const NOTHING: &[&str] = &["", "none", "null", "false"];
