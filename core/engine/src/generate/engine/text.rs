//! The text of an answer while it is generated: whole characters, and nothing of a stop string.

use apus_data::chat::Tokenizer;

/// Turns the tokens of an answer into text piece by piece. What may become a stop string is held back until it is known.
#[derive(Default)]
pub struct AnswerText {
    stop: Vec<String>,
    /// Bytes of a character that is not complete.
    bytes: Vec<u8>,
    held: String,
    has_ended: bool,
}

impl AnswerText {
    /// The text of an answer that one of these strings ends.
    pub fn new(stop: &[String]) -> Self {
        Self {
            stop: stop.to_vec(),
            ..Self::default()
        }
    }

    /// The text that a token adds. Control tokens are written out if `special` is set.
    pub fn push(&mut self, token: u32, tokenizer: &Tokenizer, special: bool) -> String {
        if !special && tokenizer.is_special(token) {
            return String::new();
        }
        self.push_bytes(tokenizer.token(token))
    }

    /// As [`push`](Self::push), for text.
    pub fn push_text(&mut self, text: &str) -> String {
        self.push_bytes(text.as_bytes())
    }

    /// Whether a stop string, or the end, was there.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        if self.has_ended {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if let Some(at) = first_stop(&self.held, &self.stop) {
            self.has_ended = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let safe = self.held.len() - open_stop(&self.held, &self.stop);
        let rest = self.held.split_off(safe);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, once no more tokens come.
    pub fn end(&mut self) -> String {
        if self.has_ended {
            return String::new();
        }
        self.has_ended = true;
        let rest = String::from_utf8_lossy(&self.bytes).into_owned();
        std::mem::take(&mut self.held) + &rest
    }

    /// Moves whole characters to the text. What cannot become valid any more becomes a replacement character.
    fn decode(&mut self) {
        loop {
            let (valid, bad) = match std::str::from_utf8(&self.bytes) {
                Ok(text) => (text.len(), None),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            self.held += &String::from_utf8_lossy(&self.bytes[..valid]);
            self.bytes.drain(..valid + bad.unwrap_or(0));
            match bad {
                Some(_) => self.held.push('\u{fffd}'),
                None => return,
            }
        }
    }
}

/// Where the stop string that is complete first begins.
pub fn first_stop(text: &str, stop: &[String]) -> Option<usize> {
    let found = stop
        .iter()
        .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
    found.min().map(|(_, at)| at)
}

/// How many bytes at the end may be the beginning of a stop string.
fn open_stop(text: &str, stop: &[String]) -> usize {
    let longest = |stop: &String| {
        let lengths = (1..stop.len()).rev();
        let mut open = lengths.filter(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]));
        open.next().unwrap_or(0)
    };
    stop.iter().map(longest).max().unwrap_or(0)
}

/// Finds stop strings in the bytes of tokens as they come.
#[derive(Debug, Default)]
pub(super) struct StopStrings {
    strings: Vec<String>,
    longest: usize,
    tail: Vec<u8>,
}

impl StopStrings {
    pub fn new(strings: Vec<String>) -> Self {
        Self {
            longest: strings.iter().map(String::len).max().unwrap_or(0),
            strings,
            tail: Vec::new(),
        }
    }

    /// The string that the bytes of the next token complete: of several the one that is complete first.
    pub fn push(&mut self, bytes: &[u8]) -> Option<&str> {
        if self.strings.is_empty() {
            return None;
        }
        self.tail.extend_from_slice(bytes);
        let ends = self.strings.iter().filter_map(|string| {
            let mut windows = self.tail.windows(string.len());
            let at = windows.position(|window| window == string.as_bytes())?;
            Some((at + string.len(), at, string.as_str()))
        });
        let found = ends.min().map(|(_, _, string)| string);
        let keep = self.tail.len().min(self.longest.saturating_sub(1));
        self.tail.drain(..self.tail.len() - keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stop: &[&str], pieces: &[&[u8]]) -> Vec<String> {
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut text = AnswerText::new(&stop);
        let mut shown: Vec<String> = pieces.iter().map(|piece| text.push_bytes(piece)).collect();
        shown.push(text.end());
        shown
    }

    #[test]
    fn characters_are_shown_whole() {
        let bytes = "喵!".as_bytes();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(shown(&[], &pieces), ["", "", "喵", "!", ""]);
        let broken = shown(&[], &[b"a\xff\xe5", b"\x96", b"\xb5"]);
        assert_eq!(broken.concat(), "a\u{fffd}喵");
        assert_eq!(shown(&[], &[b"a\xe5"]), ["a", "\u{fffd}"]);
    }

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let pieces: &[&[u8]] = &[b"one E", b"N", b"x EN", b"D two"];
        assert_eq!(shown(&["END"], pieces), ["one ", "", "ENx ", "", ""]);
        assert_eq!(shown(&["END"], &[b"one EN"]), ["one ", "EN"]);
        // The one that is complete first counts, wherever the others begin.
        assert_eq!(shown(&["abcd", "bc"], &[b"xabc", b"d"]), ["xa", "", ""]);
        assert_eq!(
            shown(&["喵"], &["a".as_bytes(), &"喵".as_bytes()[..1]]),
            ["a", "", "\u{fffd}"]
        );
    }

    #[test]
    fn a_stop_string_is_found_wherever_tokens_end() {
        let strings = ["END".to_owned(), "D!".to_owned()];
        for cuts in 0u32..1 << 6 {
            let (text, mut pieces, mut from) = (b"xENEND!", Vec::new(), 0);
            for at in 1..=text.len() {
                if at == text.len() || cuts >> (at - 1) & 1 == 1 {
                    pieces.push(&text[from..at]);
                    from = at;
                }
            }
            let mut stop = StopStrings::new(strings.to_vec());
            let found: Vec<_> = pieces
                .iter()
                .filter_map(|piece| stop.push(piece).map(str::to_owned))
                .collect();
            assert_eq!(found[0], "END", "{pieces:?}");
        }
        assert_eq!(StopStrings::new(Vec::new()).push(b"END"), None);
    }
}
