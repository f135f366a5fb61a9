//! ReAct agents (ms-swift's `react`): what the agent does counts double, what it is told nothing.

use super::config::Table;
use apus_sdk::{LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| {
    Table::delimiters(&[
        ("Action:", [2.0, 2.0]),
        ("Action Input:", [2.0, 2.0]),
        ("Thought:", [1.0, 1.0]),
        ("Final Answer:", [1.0, 1.0]),
        ("Observation:", [2.0, 0.0]),
    ])
});

#[derive(Deserialize)]
struct React;

impl LossScale for React {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// ReAct agents: action and its input count double, observations nothing.
    LossScale, "react", React
}
