//! Alpha-UMi agents (ms-swift's `alpha_umi`): ReAct with a choice of the agent that comes next.

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
        ("Next:", [2.0, 2.0]),
    ])
});

#[derive(Deserialize)]
struct AlphaUmi;

impl LossScale for AlphaUmi {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// Alpha-UMi agents: as react, and the choice of the next agent counts double.
    LossScale, "alpha_umi", AlphaUmi
}
