//! Where questions come from.

use anyhow::Result;
use std::io::Write;

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// What was typed.
    Text(String),
    /// Ctrl-C. What had been typed is gone.
    Interrupted,
    /// Nothing comes any more.
    End,
}

/// Asks for lines.
pub trait Input {
    /// Shows the prompt and reads a line, or with `several` lines up to one that ends with `#`; a command is one line.
    ///
    /// # Errors
    /// Input that cannot be read, or output that cannot be written.
    fn ask(&mut self, output: &mut dyn Write, prompt: &str, several: bool) -> Result<Asked>;

    /// Whether the keys of a line editor do something.
    fn has_keys(&self) -> bool {
        false
    }
}
