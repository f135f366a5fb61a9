//! Counts changes to rows on their way to tokens, so that they can be reported.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// The number of rows that were changed in ways that cannot be seen in the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowNotes {
    /// Rows in which a `<think>` block was moved to the analysis channel.
    pub moved: usize,
    /// Rows in which the reasoning of earlier turns was left out.
    pub left_out: usize,
    /// Rows in which reasoning was left out as openai-harmony leaves it out.
    pub dropped: usize,
    /// Rows with tools, written as the model's chat template writes them.
    pub tools: usize,
    /// Rows that the native renderer wrote in place of the model's chat template.
    pub natively: usize,
}

impl AddAssign for RowNotes {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.left_out += other.left_out;
        self.dropped += other.dropped;
        self.tools += other.tools;
        self.natively += other.natively;
    }
}

impl RowNotes {
    /// A line for each thing that was done to reasoning, or by another renderer.
    pub fn notes(self) -> Vec<String> {
        let said = |rows: usize, what: &str| {
            (rows > 0).then(|| format!("{rows} {}: {what}", if rows == 1 { "row" } else { "rows" }))
        };
        let moved = "<think>..</think> before an answer was moved to the analysis channel \
                     (--think_to_analysis false leaves it where it is)";
        let left_out = "reasoning in earlier turns was left out, as the model's template does \
                        (--keep_thinking true keeps it)";
        let dropped = "reasoning before the first final answer was left out, as openai-harmony does; it is \
                       not trained (--keep_thinking true keeps all reasoning)";
        let natively = "the model's template has no place for text that looks like a control token, or for words \
                        beside reasoning before a call, so the renderer native wrote them, which writes the \
                        same as the template otherwise (--template_backend jinja refuses such rows)";
        let notes = [
            said(self.moved, moved),
            said(self.left_out, left_out),
            said(self.dropped, dropped),
            said(self.natively, natively),
        ];
        notes.into_iter().flatten().collect()
    }

    /// A line that should not go unnoticed.
    pub fn warning(self) -> Option<String> {
        (self.tools > 0).then(|| {
            format!(
                "{} with tools: definitions and results are written as the model's chat template writes \
                 them. Servers built on openai-harmony, vLLM among them, send other tokens: for those, \
                 train with --template_backend harmony (docs/gpt-oss-20b.md)",
                match self.tools {
                    1 => "1 row".to_owned(),
                    rows => format!("{rows} rows"),
                }
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_warned_of() {
        assert_eq!(RowNotes::default().warning(), None);
        let mut all = RowNotes {
            tools: 1,
            ..RowNotes::default()
        };
        assert!(
            all.warning()
                .is_some_and(|line| line.starts_with("1 row with tools"))
        );
        all += all;
        assert!(
            all.warning()
                .is_some_and(|line| line.starts_with("2 rows with tools"))
        );
    }
}
