//! Notes and warnings of the tracker on the terminal, from any of its threads.

use super::secret::Secret;
use std::io::Write;

/// Writes notes and warnings to standard error, without the secrets.
#[derive(Debug, Clone, Default)]
pub struct Terminal {
    /// Whether there may be a progress bar, whose line has to be cleared first.
    pub interactive: bool,
    /// Texts that must not be shown.
    pub secrets: Vec<Secret>,
}

impl Terminal {
    /// Writes a note.
    pub fn note(&self, text: &str) {
        self.write("note", text);
    }

    /// Writes a warning.
    pub fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    /// A text without the secrets.
    pub fn hide(&self, text: String) -> String {
        let hide = |text: String, secret: &Secret| secret.hidden_in(&text);
        self.secrets.iter().fold(text, hide)
    }

    fn write(&self, level: &str, text: &str) {
        let text = self.hide(text.to_owned());
        let clear = if self.interactive { "\r\u{1b}[2K" } else { "" };
        // One write, so that lines of other threads do not get into it. A closed terminal is nobody's fault.
        let line = format!("{clear}{level}: swanlab: {text}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
