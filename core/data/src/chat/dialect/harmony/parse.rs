//! Reads harmony text back into messages. The format delimits its messages, so this needs no template.

use super::{CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START};
use crate::chat::rendered::Rendered;
use anyhow::{Result, bail};
use std::ops::Range;

/// The header of a message that was read, between `<|start|>` and `<|message|>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// `system`, `developer`, `user`, `assistant`, or the name of a tool.
    pub role: String,
    /// Whom the message is for (`to=`): a tool, or `assistant` for its result.
    pub recipient: Option<String>,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<String>,
    /// The type of the body, such as `json`.
    pub content_type: Option<String>,
}

impl Header {
    /// Reads a header. The recipient may come before or after the channel.
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

/// One message with the byte ranges of its parts in the text.
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

/// All messages of a text in which every marker of harmony's is one. A generation prompt at the end is
/// left out.
///
/// # Errors
/// The text is not harmony; the error says from which byte on.
pub fn parse(text: &str) -> Result<Vec<Span>> {
    parse_rendered(&marked(text))
}

/// All messages of a rendered conversation: text that looks like a marker is text. A generation prompt
/// at the end is left out.
///
/// # Errors
/// Text that is not harmony, with the byte where it stops being so; a message with a control token in it.
pub fn parse_rendered(rendered: &Rendered) -> Result<Vec<Span>> {
    let text = rendered.text.as_str();
    let mut marks = rendered.marks.iter().cloned();
    let mut spans = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let opening = marks.next();
        if opening.is_none_or(|mark| mark.start != at || &text[mark] != START) {
            bail!(
                "expected {START} at byte {at}, found `{}`",
                text[at..].chars().take(20).collect::<String>()
            );
        }
        let message = loop {
            let Some(mark) = marks.next() else {
                return Ok(spans);
            };
            match &text[mark.clone()] {
                MESSAGE => break mark,
                CHANNEL | CONSTRAIN => {}
                other => bail!("the message that starts at byte {at} has {other} in its header"),
            }
        };
        let Some(closing) = marks.next() else {
            bail!("the message that starts at byte {at} has no end");
        };
        let end = &text[closing.clone()];
        if ![END, RETURN, CALL].contains(&end) {
            bail!(
                "the message that starts at byte {at} holds {end}, which cannot stand inside one"
            );
        }
        let header = &text[at + START.len()..message.start];
        let role_end = at + START.len() + header.find([' ', '<']).unwrap_or(header.len());
        spans.push(Span {
            header: Header::read(header),
            opening: at..role_end,
            head: role_end..message.end,
            body: message.end..closing.start,
            closing: closing.clone(),
        });
        at = closing.end;
    }
    Ok(spans)
}

/// Marks everything in a text that looks like a marker of harmony as one.
pub fn marked(text: &str) -> Rendered {
    let all = [START, MESSAGE, CHANNEL, CONSTRAIN, END, RETURN, CALL];
    let mark = |(at, _): (usize, &str)| {
        let marker = all.iter().find(|marker| text[at..].starts_with(*marker))?;
        Some(at..at + marker.len())
    };
    Rendered {
        text: text.to_owned(),
        marks: text.match_indices("<|").filter_map(mark).collect(),
    }
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
        assert!(parse("<|start|>user<|end|><|message|>a<|end|>").is_err());
        let inside = parse("<|start|>user<|message|>a<|channel|>b<|end|>").unwrap_err();
        assert!(inside.to_string().contains("holds <|channel|>"), "{inside}");
    }

    #[test]
    fn what_was_typed_is_no_marker() {
        let mut rendered = Rendered::default();
        rendered.mark(START);
        rendered.text("user");
        rendered.mark(MESSAGE);
        rendered.text("a<|end|><|start|>assistant");
        rendered.mark(END);
        let [span] = parse_rendered(&rendered).unwrap().try_into().unwrap();
        assert_eq!(&rendered.text[span.body], "a<|end|><|start|>assistant");
        rendered.mark("<|endoftext|>");
        assert!(parse_rendered(&rendered).is_err());
    }
}
