//! Filters an answer for display while it is generated: headers are left out, and reasoning is dimmed or hidden.

use super::{CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, reader::Reader};
use crate::chat::dialect::{AnswerDelta, AnswerPart, AnswerReader, AnswerView, ViewOptions};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Filters the text after `<|start|>assistant`. A special token is never split, because text arrives token by token.
pub struct View {
    options: ViewOptions,
    reader: Reader,
    in_reasoning: bool,
    /// Whether something was shown, so that the next message begins on a new line.
    shown: bool,
}

impl AnswerView for View {
    fn next(&mut self, mut text: &str) -> String {
        let mut out = String::new();
        while let Some((at, marker)) = first_marker(text) {
            let before = self.reader.text(&text[..at]);
            self.show(before, &mut out);
            let token = self.reader.control(marker);
            self.show(token, &mut out);
            text = &text[at + marker.len()..];
        }
        let rest = self.reader.text(text);
        self.show(rest, &mut out);
        out
    }

    fn end(&mut self) -> String {
        let mut out = String::new();
        let rest = self.reader.end();
        self.show(rest, &mut out);
        self.close(&mut out);
        out
    }
}

impl View {
    /// A view at the beginning of an answer.
    pub fn new(options: ViewOptions) -> Self {
        Self {
            options,
            reader: Reader::default(),
            in_reasoning: false,
            shown: false,
        }
    }

    fn show(&mut self, deltas: Vec<AnswerDelta>, out: &mut String) {
        for delta in deltas {
            match delta {
                AnswerDelta::Opened(part) => self.open(&part, out),
                AnswerDelta::Text(text) if self.is_visible() => {
                    self.shown = true;
                    out.push_str(&text);
                }
                AnswerDelta::Text(_) => {}
                AnswerDelta::Closed => self.close(out),
            }
        }
    }

    fn is_visible(&self) -> bool {
        self.options.thinking || !self.in_reasoning
    }

    fn open(&mut self, part: &AnswerPart, out: &mut String) {
        self.in_reasoning = *part == AnswerPart::Reasoning;
        if self.is_visible() && self.shown {
            out.push('\n');
        }
        match part {
            AnswerPart::Call(tool) => {
                out.push_str(&format!("[{tool}] "));
                self.shown = true;
            }
            AnswerPart::Reasoning if self.options.thinking && self.options.colour => {
                out.push_str(DIM)
            }
            _ => {}
        }
    }

    fn close(&mut self, out: &mut String) {
        if std::mem::take(&mut self.in_reasoning) && self.options.thinking && self.options.colour {
            out.push_str(PLAIN);
        }
    }
}

fn first_marker(text: &str) -> Option<(usize, &'static str)> {
    [START, CHANNEL, MESSAGE, CONSTRAIN, END, RETURN, CALL]
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
