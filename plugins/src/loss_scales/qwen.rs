//! Tool calls in Qwen's text form (ms-swift's `qwen`).

use super::config::{Table, table_scale};

table_scale! {
    /// Qwen's tool calls: function and arguments count double, results nothing.
    "qwen", Qwen, Table::delimiters(&[
        ("✿FUNCTION✿:", [2.0, 2.0]),
        ("✿ARGS✿:", [2.0, 2.0]),
        ("✿RETURN✿:", [1.0, 1.0]),
        ("✿RESULT✿:", [2.0, 0.0]),
    ])
}
