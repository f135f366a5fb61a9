//! Alpha-UMi agents (ms-swift's `alpha_umi`): ReAct with a choice of the agent that comes next.

use super::config::{Table, table_scale};

table_scale! {
    /// Alpha-UMi agents: as react, and the choice of the next agent counts double.
    "alpha_umi", AlphaUmi, Table::delimiters(&[
        ("Action:", [2.0, 2.0]),
        ("Action Input:", [2.0, 2.0]),
        ("Thought:", [1.0, 1.0]),
        ("Final Answer:", [1.0, 1.0]),
        ("Observation:", [2.0, 0.0]),
        ("Next:", [2.0, 2.0]),
    ])
}
