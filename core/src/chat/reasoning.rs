//! What was done to the reasoning of rows on their way to tokens, so that it can be said.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Rows whose reasoning is not where it stands in the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reasoning {
    /// Rows in which a `<think>` block was moved to the analysis channel.
    pub moved: usize,
    /// Rows in which the reasoning of earlier turns was left out.
    pub left_out: usize,
}

impl AddAssign for Reasoning {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.left_out += other.left_out;
    }
}

impl Reasoning {
    /// A line for each thing that was done.
    pub fn notes(self) -> Vec<String> {
        let said = |rows: usize, what: &str| {
            (rows > 0).then(|| format!("{rows} {}: {what}", if rows == 1 { "row" } else { "rows" }))
        };
        let moved = "<think>..</think> before an answer was moved to the analysis channel \
                     (--think_to_analysis false leaves it where it is)";
        let left_out = "reasoning in earlier turns was left out, as the model's template does \
                        (--keep_thinking true keeps it)";
        let notes = [said(self.moved, moved), said(self.left_out, left_out)];
        notes.into_iter().flatten().collect()
    }
}
