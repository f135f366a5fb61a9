//! Harmony text back to messages. The format delimits itself, so no template is needed for this.

use super::{CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START};
use anyhow::{Result, bail};
use std::ops::Range;

/// What stands between `<|start|>` and `<|message|>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// `system`, `developer`, `user`, `assistant`, or the name of a tool.
    pub role: String,
    /// Whom the message is for (`to=`): a tool, or `assistant` for its result.
    pub recipient: Option<String>,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<String>,
    /// Type of the body, such as `json`.
    pub content_type: Option<String>,
}

impl Header {
    /// Reads a header. The recipient may stand before or behind the channel.
    pub fn read(text: &str) -> Self {
        let (before, after) = match text.split_once(CHANNEL) {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        let mut header = Self::default();
        let mut words = before.split_whitespace();
        header.role = words.next().unwrap_or_default().to_owned();
        words.for_each(|word| header.word(word));
        if let Some(after) = after {
            let spaced = after.replace(CONSTRAIN, " ");
            let mut words = spaced.split_whitespace();
            header.channel = words.next().map(str::to_owned);
            words.for_each(|word| header.word(word));
        }
        header
    }

    fn word(&mut self, word: &str) {
        match word.strip_prefix("to=") {
            Some(recipient) => self.recipient = Some(recipient.to_owned()),
            None => self.content_type = Some(word.trim_start_matches(CONSTRAIN).to_owned()),
        }
    }
}

/// One message and where its parts stand in the text, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The header.
    pub header: Header,
    /// From `<|start|>` up to the role's end: `<|start|>assistant`.
    pub opening: Range<usize>,
    /// The rest of the header, with `<|message|>`.
    pub head: Range<usize>,
    /// The body.
    pub body: Range<usize>,
    /// The token that ends it: `<|end|>`, `<|return|>` or `<|call|>`.
    pub closing: Range<usize>,
}

/// All messages of a rendered conversation. A generation prompt at the end is left out.
///
/// # Errors
/// Text that is not harmony, with the byte where it stops being so.
pub fn parse(text: &str) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if !rest.starts_with(START) {
            bail!(
                "expected {START} at byte {at}, found `{}`",
                rest.chars().take(20).collect::<String>()
            );
        }
        let Some(message) = rest.find(MESSAGE) else {
            break;
        };
        let body = message + MESSAGE.len();
        let Some((close, marker)) = next_close(&rest[body..]) else {
            bail!("the message that starts at byte {at} has no end");
        };
        let role_end = rest[START.len()..message]
            .find([' ', '<'])
            .map_or(message, |end| START.len() + end);
        let end = body + close;
        spans.push(Span {
            header: Header::read(&rest[START.len()..message]),
            opening: at..at + role_end,
            head: at + role_end..at + body,
            body: at + body..at + end,
            closing: at + end..at + end + marker.len(),
        });
        at += end + marker.len();
    }
    Ok(spans)
}

/// The first token that ends a message, and where it stands.
pub(super) fn next_close(text: &str) -> Option<(usize, &'static str)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("<|") {
        let at = from + found;
        let marker = [END, RETURN, CALL]
            .into_iter()
            .find(|marker| text[at..].starts_with(marker));
        if let Some(marker) = marker {
            return Some((at, marker));
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_every_order() {
        let call = Header::read("assistant to=functions.f<|channel|>commentary json");
        let other = Header::read("assistant<|channel|>commentary to=functions.f <|constrain|>json");
        assert_eq!(call, other);
        assert_eq!(call.recipient.as_deref(), Some("functions.f"));
        assert_eq!(call.content_type.as_deref(), Some("json"));
        let tool = Header::read("functions.f to=assistant<|channel|>commentary");
        assert_eq!(
            (tool.role.as_str(), tool.recipient.as_deref()),
            ("functions.f", Some("assistant"))
        );
        assert_eq!(Header::read("user").channel, None);
    }

    #[test]
    fn spans_cover_the_text() {
        let text = "<|start|>user<|message|>a <| b<|end|><|start|>assistant<|channel|>final<|message|>\
                    é<|return|><|start|>assistant";
        let spans = parse(text).unwrap();
        let parts = |s: &Span| {
            [&s.opening, &s.head, &s.body, &s.closing].map(|r| text[r.clone()].to_owned())
        };
        assert_eq!(
            parts(&spans[0]),
            ["<|start|>user", "<|message|>", "a <| b", "<|end|>"]
        );
        assert_eq!(
            parts(&spans[1]),
            [
                "<|start|>assistant",
                "<|channel|>final<|message|>",
                "é",
                "<|return|>"
            ]
        );
        assert_eq!(spans.len(), 2);
    }

    #[test]
    fn text_that_is_not_harmony_is_refused() {
        assert!(parse("hello").is_err());
        assert!(parse("<|start|>user<|message|>a").is_err());
    }
}
