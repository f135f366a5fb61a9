//! Tool calls in the Hermes form, `<tool_call>{..}</tool_call>` (ms-swift's `hermes`).

use super::config::{Table, table_scale};

table_scale! {
    /// Hermes tool calls count double.
    "hermes", Hermes, Table::patterns(&[("<tool_call>.+?</tool_call>", 2.0)])
}
