//! Counts changes to rows on their way to tokens, so that they can be reported.

use apus_base::wording::counted;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// The number of rows that were changed in ways that cannot be seen in the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowNotes {
    /// Rows in which a `<think>` block was taken out of an answer.
    pub moved: usize,
    /// Rows in which the reasoning of earlier turns was left out, as the model's template does.
    pub left_out: usize,
    /// Rows in which a built-in renderer left reasoning out by a rule of its own.
    pub dropped: usize,
    /// Rows with tools, written as the model's chat template writes them.
    pub tools: usize,
    /// Rows that a built-in renderer wrote in place of the model's chat template.
    #[serde(rename = "natively")]
    pub built_in: usize,
}

/// What a dialect says of changed rows. Each text stands after the number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowNoteTexts {
    /// Said of [`RowNotes::moved`].
    pub moved: &'static str,
    /// Said of [`RowNotes::dropped`].
    pub dropped: &'static str,
    /// Said of [`RowNotes::built_in`].
    pub built_in: &'static str,
    /// A warning of [`RowNotes::tools`], if servers may prompt the model otherwise.
    pub tools: Option<&'static str>,
}

impl AddAssign for RowNotes {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.left_out += other.left_out;
        self.dropped += other.dropped;
        self.tools += other.tools;
        self.built_in += other.built_in;
    }
}

impl RowNotes {
    /// A line for each thing that was done to reasoning, or by another renderer.
    pub fn notes(self, texts: &RowNoteTexts) -> Vec<String> {
        let left_out = "reasoning in earlier turns was left out, as the model's template does \
                        (--keep_thinking true keeps it)";
        let notes = [
            (self.moved, texts.moved),
            (self.left_out, left_out),
            (self.dropped, texts.dropped),
            (self.built_in, texts.built_in),
        ];
        let changed = notes.into_iter().filter(|(rows, _)| *rows > 0);
        changed
            .map(|(rows, text)| format!("{}: {text}", counted(rows, "row")))
            .collect()
    }

    /// A line that should not go unnoticed.
    pub fn warning(self, texts: &RowNoteTexts) -> Option<String> {
        let text = texts.tools.filter(|_| self.tools > 0)?;
        Some(format!("{} with tools: {text}", counted(self.tools, "row")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: RowNoteTexts = RowNoteTexts {
        moved: "m",
        dropped: "d",
        built_in: "n",
        tools: Some("t"),
    };

    #[test]
    fn each_change_is_noted() {
        assert_eq!(RowNotes::default().notes(&TEXTS), [""; 0]);
        let all = RowNotes {
            moved: 1,
            built_in: 2,
            ..RowNotes::default()
        };
        assert_eq!(all.notes(&TEXTS), ["1 row: m", "2 rows: n"]);
    }

    #[test]
    fn tools_are_warned_of_where_the_dialect_does() {
        assert_eq!(RowNotes::default().warning(&TEXTS), None);
        let mut all = RowNotes {
            tools: 1,
            ..RowNotes::default()
        };
        assert_eq!(all.warning(&TEXTS).as_deref(), Some("1 row with tools: t"));
        all += all;
        assert_eq!(all.warning(&TEXTS).as_deref(), Some("2 rows with tools: t"));
        let silent = RowNoteTexts {
            tools: None,
            ..TEXTS
        };
        assert_eq!(all.warning(&silent), None);
    }
}
