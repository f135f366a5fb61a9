//! AgentFLAN (ms-swift's `agentflan`): the answers to questions about tools count triple.

use super::config::Table;
use apus_sdk::{LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| {
    let response = Table::delimiters(&[
        ("Name:", [1.0, 3.0]),
        ("Action:", [1.0, 3.0]),
        ("ACTION:", [1.0, 3.0]),
        ("Tool:", [1.0, 3.0]),
        ("Command", [1.0, 3.0]),
        ("Arguments:", [1.0, 3.0]),
        ("action input", [1.0, 3.0]),
        ("ACTION_INPUT:", [1.0, 3.0]),
        ("Action Input:", [1.0, 3.0]),
        ("Thought:", [1.0, 1.0]),
        ("Final Answer:", [1.0, 1.0]),
        ("Observation:", [2.0, 0.0]),
    ])?;
    Ok(response.with_queries(&[
        ("What is the tool you want to use", 3.0),
        ("What are the required parameter names", 3.0),
        ("What is the value of", 3.0),
    ]))
});

#[derive(Deserialize)]
struct AgentFlan;

impl LossScale for AgentFlan {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// AgentFLAN: tool names and arguments count triple, as do whole answers to questions about them.
    LossScale, "agentflan", AgentFlan
}
