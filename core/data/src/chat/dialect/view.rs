//! How an answer is shown while it is generated.

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewOptions {
    /// Whether reasoning is shown.
    pub thinking: bool,
    /// Whether escape sequences may be written.
    pub colour: bool,
}

/// Filters an answer for display: what frames its texts is left out, and reasoning is dimmed or hidden.
pub trait AnswerView {
    /// The text to print for newly generated text. A control token is never split, because text arrives token by token.
    fn next(&mut self, text: &str) -> String;

    /// The text to print at the end of the answer.
    fn end(&mut self) -> String;
}
