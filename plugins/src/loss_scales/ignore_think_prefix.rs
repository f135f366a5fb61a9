//! The opening `<think>` that a prompt already gives (ms-swift 4.5's `ignore_think_prefix`).

use super::config::{Table, table_scale};

table_scale! {
    /// Does not train an opening <think> at the start.
    "ignore_think_prefix", IgnoreThinkPrefix, Table::patterns(&[(r"^<think>\n?", 0.0)])
}
