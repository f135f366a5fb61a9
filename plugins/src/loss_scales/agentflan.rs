//! AgentFLAN (ms-swift's `agentflan`): the answers to questions about tools count triple.

use super::config::{Table, table_scale};

table_scale! {
    /// AgentFLAN: tool names and arguments count triple, as do whole answers to questions about them.
    "agentflan", AgentFlan, {
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
    }
}
