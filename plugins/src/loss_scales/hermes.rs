//! Tool calls in the Hermes form, `<tool_call>{..}</tool_call>` (ms-swift's `hermes`).

use super::config::Table;
use apus_sdk::{LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> =
    LazyLock::new(|| Table::patterns(&[("<tool_call>.+?</tool_call>", 2.0)]));

#[derive(Deserialize)]
struct Hermes;

impl LossScale for Hermes {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// Hermes tool calls count double.
    LossScale, "hermes", Hermes
}
