//! Filters an answer for display while it is generated: headers are left out, and reasoning is dimmed or hidden.

use super::{ANALYSIS, CALL, CHANNEL, END, Header, MESSAGE, RETURN, START};
use crate::chat::dialect::{AnswerView, ViewOptions};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
/// The role at the beginning of a header. The prompt contains that of the first header.
const ROLE: &str = "assistant";
/// The text before the recipient of a call.
const TO: &str = " to=";

/// The part of a completion that the text is in.
#[derive(Debug, PartialEq)]
enum Position {
    Header(String),
    Analysis,
    Body,
}

/// Filters the text after `<|start|>assistant`. A special token is never split, because text arrives token by token.
pub struct View {
    options: ViewOptions,
    position: Position,
    /// Whether something was shown, so that the next message begins on a new line.
    shown: bool,
}

impl AnswerView for View {
    fn next(&mut self, mut text: &str) -> String {
        let mut out = String::new();
        while let Some((at, marker)) = first_marker(text) {
            self.text(&text[..at], &mut out);
            self.marker(marker, &mut out);
            text = &text[at + marker.len()..];
        }
        self.text(text, &mut out);
        out
    }

    fn end(&mut self) -> String {
        let mut out = String::new();
        match std::mem::replace(&mut self.position, Position::Body) {
            Position::Header(held) if is_header(&held) => {}
            Position::Header(held) => out += &held,
            Position::Analysis => self.close(&mut out),
            Position::Body => {}
        }
        out
    }
}

impl View {
    /// A view at the beginning of an answer.
    pub fn new(options: ViewOptions) -> Self {
        let position = Position::Header(String::new());
        Self {
            options,
            position,
            shown: false,
        }
    }

    fn text(&mut self, text: &str, out: &mut String) {
        match &mut self.position {
            Position::Header(held) => {
                held.push_str(text);
                // A model that was never taught channels answers at once.
                let may_be = |begin: &str| begin.starts_with(held.as_str());
                if !(is_header(held) || may_be(ROLE) || may_be(TO)) {
                    out.push_str(held);
                    self.shown = true;
                    self.position = Position::Body;
                }
            }
            Position::Analysis if !self.options.thinking => {}
            Position::Analysis | Position::Body => {
                self.shown |= !text.is_empty();
                out.push_str(text);
            }
        }
    }

    fn marker(&mut self, marker: &str, out: &mut String) {
        match (marker, &mut self.position) {
            (CHANNEL, Position::Header(held)) => held.push_str(CHANNEL),
            (MESSAGE, Position::Header(held)) => {
                let header = match held.starts_with(ROLE) {
                    true => Header::read(held),
                    false => Header::read(&format!("{ROLE}{held}")),
                };
                self.open(&header, out);
            }
            (END | RETURN | CALL | START, Position::Analysis) => {
                self.close(out);
                self.position = Position::Header(String::new());
            }
            (END | RETURN | CALL | START, _) => self.position = Position::Header(String::new()),
            _ => {}
        }
    }

    fn open(&mut self, header: &Header, out: &mut String) {
        let analysis = header.channel.as_deref() == Some(ANALYSIS) && header.recipient.is_none();
        let visible = !analysis || self.options.thinking;
        if visible && self.shown {
            out.push('\n');
        }
        if let Some(tool) = &header.recipient {
            out.push_str(&format!("[{tool}] "));
            self.shown = true;
        }
        if analysis && visible && self.options.colour {
            out.push_str(DIM);
        }
        self.position = if analysis {
            Position::Analysis
        } else {
            Position::Body
        };
    }

    fn close(&self, out: &mut String) {
        if self.options.thinking && self.options.colour {
            out.push_str(PLAIN);
        }
    }
}

/// Whether the held text can be the beginning of a header.
fn is_header(held: &str) -> bool {
    held.starts_with(ROLE) || held.starts_with(TO) || held.contains(CHANNEL)
}

fn first_marker(text: &str) -> Option<(usize, &'static str)> {
    [START, CHANNEL, MESSAGE, END, RETURN, CALL]
        .into_iter()
        .filter_map(|marker| Some((text.find(marker)?, marker)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 13] = [
        CHANNEL,
        "analysis",
        MESSAGE,
        "hm",
        "m",
        END,
        START,
        "assistant",
        CHANNEL,
        "final",
        MESSAGE,
        "yes",
        RETURN,
    ];

    fn shown(tokens: &[&str], thinking: bool, colour: bool) -> String {
        let mut view = View::new(ViewOptions { thinking, colour });
        let text: String = tokens.iter().map(|token| view.next(token)).collect();
        text + &view.end()
    }

    #[test]
    fn channels() {
        assert_eq!(shown(&TOKENS, true, true), "\x1b[2mhmm\x1b[0m\nyes");
        assert_eq!(shown(&TOKENS, true, false), "hmm\nyes");
        assert_eq!(shown(&TOKENS, false, true), "yes");
        let whole = TOKENS.concat();
        assert_eq!(shown(&[whole.as_str()], false, false), "yes");
        assert_eq!(shown(&TOKENS[..4], true, true), "\x1b[2mhm\x1b[0m");
    }

    #[test]
    fn calls_and_text_without_channels() {
        let call = [" to", "=f", CHANNEL, "commentary", MESSAGE, "{}", CALL];
        assert_eq!(shown(&call, true, false), "[f] {}");
        assert_eq!(shown(&["Hello", " you", RETURN], true, true), "Hello you");
        assert_eq!(shown(&["", "a", "sk", "喵"], false, false), "ask喵");
        assert_eq!(shown(&["喵喵"], false, false), "喵喵");
        assert_eq!(shown(&["as"], false, false), "as");
    }

    #[test]
    fn a_header_that_is_cut_off_is_not_shown() {
        for end in [7, 8, 9, 10] {
            assert_eq!(shown(&TOKENS[..end], true, false), "hmm", "{end}");
        }
        assert_eq!(shown(&TOKENS[..2], true, false), "");
        assert_eq!(shown(&[" to", "=f"], true, false), "");
    }
}
