//! Tool calls in Qwen's text form (ms-swift's `qwen`).

use super::config::Table;
use apus_sdk::{LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| {
    Table::delimiters(&[
        ("✿FUNCTION✿:", [2.0, 2.0]),
        ("✿ARGS✿:", [2.0, 2.0]),
        ("✿RETURN✿:", [1.0, 1.0]),
        ("✿RESULT✿:", [2.0, 0.0]),
    ])
});

#[derive(Deserialize)]
struct Qwen;

impl LossScale for Qwen {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// Qwen's tool calls: function and arguments count double, results nothing.
    LossScale, "qwen", Qwen
}
