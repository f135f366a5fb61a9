//! ShareGPT's pairs: `{"conversation": [{"human": "..", "assistant": ".."}, ..]}`.
//!
//! The other form, `{"conversations": [{"from": "human", "value": ".."}, ..]}`, is one of
//! `messages` too; both formats read both forms, and this one lets a configuration name ShareGPT.

use super::{keys::noting, messages::messages};
use apus_sdk::{Converted, DatasetFormat, Result, Row, Sample, options, register};

const COLUMNS: [&str; 3] = ["conversations", "conversation", "messages"];

options! {
    struct ShareGpt {
        /// Whether the system message may stand in a column `system_prompt`, in any case.
        auto_column_mapping: bool = true,
    }
}

impl DatasetFormat for ShareGpt {
    fn recognises(&self, columns: &[&str]) -> bool {
        // Beside messages of their own, these are another copy.
        !columns.contains(&"messages")
            && (columns.contains(&"conversations") || columns.contains(&"conversation"))
    }

    fn rank(&self) -> i32 {
        30
    }

    fn row(&self, text: &str) -> Result<Row> {
        super::row::read(text)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        Ok(self.convert_noting(row)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        let auto = self.auto_column_mapping;
        noting(row, &[], |row, at| messages(row, &COLUMNS, auto, at))
    }
}

register! {
    /// ShareGPT: conversations of from and value, or of human and assistant pairs.
    DatasetFormat, "sharegpt", ShareGpt
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{convert, turns};
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_read() {
        let rows = [
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
            json!({"conversation": [{"human": "a", "assistant": "b"}]}),
        ];
        for row in rows {
            let found = convert(&ShareGpt::default(), row).unwrap();
            assert_eq!(turns(&found), [("user", "a"), ("assistant", "b")]);
        }
    }

    #[test]
    fn a_pair_without_an_answer_is_named() {
        let bad = convert(
            &ShareGpt::default(),
            json!({"conversation": [{"human": "a"}]}),
        )
        .unwrap_err();
        assert!(bad.to_string().contains("pair 1 needs text"), "{bad}");
    }
}
