//! ReAct agents (ms-swift's `react`): what the agent does counts double, what it is told nothing.

use super::config::{Table, table_scale};

table_scale! {
    /// ReAct agents: action and its input count double, observations nothing.
    "react", React, Table::delimiters(&[
        ("Action:", [2.0, 2.0]),
        ("Action Input:", [2.0, 2.0]),
        ("Thought:", [1.0, 1.0]),
        ("Final Answer:", [1.0, 1.0]),
        ("Observation:", [2.0, 0.0]),
    ])
}
