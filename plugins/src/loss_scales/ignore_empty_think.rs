//! Reasoning that is empty should not be learnt: a model taught to open and close an empty thought
//! stops thinking. ms-swift 4.3's expressions, and harmony's form of the same.

use super::config::Table;
use apus_sdk::{Field, LossScale, Result, Segment, Turn, register};
use serde::Deserialize;
use std::sync::LazyLock;

static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| {
    Table::patterns(&[
        (r"^<think>\s*</think>\s*", 0.0),
        (
            "^<seed:think><seed:cot_budget_reflect>The current thinking budget is 0, so I will \
             directly start answering the question.</seed:cot_budget_reflect>\\n</seed:think>\\s*",
            0.0,
        ),
        (r"^</think>\s*", 0.0),
        (r"^<\|channel>thought\n<channel\|>", 0.0),
        (r"^</mm:think>\s*", 0.0),
        (
            r"^<\|channel\|>analysis<\|message\|>\s*<\|end\|>(?:<\|start\|>assistant)?",
            0.0,
        ),
    ])
});

#[derive(Deserialize)]
struct IgnoreEmptyThink;

impl LossScale for IgnoreEmptyThink {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        if turn.field == Field::Thinking && text.trim().is_empty() {
            return Ok(vec![Segment::new(text, 0.0)]);
        }
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        Ok(table.segments(text, turn.query))
    }
}

register! {
    /// Does not train an empty thought at the start (<think></think>, or an empty analysis message).
    LossScale, "ignore_empty_think", IgnoreEmptyThink
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, field: Field) -> Vec<(String, f64)> {
        let turn = Turn {
            role: "assistant",
            field,
            query: None,
            is_last: true,
        };
        let segments = IgnoreEmptyThink.segments(text, &turn).unwrap();
        segments.into_iter().map(|s| (s.text, s.weight)).collect()
    }

    #[test]
    fn an_empty_analysis_message_is_not_trained() {
        let head = "<|channel|>analysis<|message|>\n<|end|><|start|>assistant";
        let tail = "<|channel|>final<|message|>hi";
        assert_eq!(
            run(&format!("{head}{tail}"), Field::Content),
            [(head.to_owned(), 0.0), (tail.to_owned(), 1.0)]
        );
        let full = "<|channel|>analysis<|message|>x<|end|>";
        assert_eq!(run(full, Field::Content), [(full.to_owned(), 1.0)]);
    }

    #[test]
    fn an_empty_thinking_field_is_not_trained() {
        assert_eq!(run(" \n", Field::Thinking), [(" \n".to_owned(), 0.0)]);
        assert_eq!(run("so", Field::Thinking), [("so".to_owned(), 1.0)]);
    }
}
