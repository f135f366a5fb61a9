//! The opening `<think>` that a prompt already gives (ms-swift 4.5's `ignore_think_prefix`).

use super::config::Table;
use apus_sdk::{LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| Table::patterns(&[(r"^<think>\n?", 0.0)]));

#[derive(Deserialize)]
struct IgnoreThinkPrefix;

impl LossScale for IgnoreThinkPrefix {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// Does not train an opening <think> at the start.
    LossScale, "ignore_think_prefix", IgnoreThinkPrefix
}
