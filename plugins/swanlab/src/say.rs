//! What the tracker says to the user, from whichever thread.

use super::secret::Secret;
use std::io::Write;

/// Speaks on standard error; no secret gets out through it.
#[derive(Debug, Clone, Default)]
pub struct Voice {
    /// Whether there may be a progress bar, whose line has to be cleared first.
    pub interactive: bool,
    /// What must not be said.
    pub secrets: Vec<Secret>,
}

impl Voice {
    /// Something good to know.
    pub fn note(&self, text: &str) {
        self.say("note", text);
    }

    /// Something that went wrong.
    pub fn warn(&self, text: &str) {
        self.say("warning", text);
    }

    /// A text without the secrets.
    pub fn hide(&self, text: String) -> String {
        let hide = |text: String, secret: &Secret| secret.hidden_in(&text);
        self.secrets.iter().fold(text, hide)
    }

    fn say(&self, how: &str, text: &str) {
        let text = self.hide(text.to_owned());
        let clear = if self.interactive { "\r\u{1b}[2K" } else { "" };
        // One write, so that lines of other threads do not get into it. A closed terminal is nobody's fault.
        let line = format!("{clear}{how}: swanlab: {text}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
