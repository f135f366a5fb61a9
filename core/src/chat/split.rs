//! Content that holds reasoning and answer in one text: `<think>..</think>` in front, or harmony's
//! own markers, written by hand as ms-swift wants it. The weights go with the text.

use super::{
    harmony::{self, ASSISTANT, CHANNEL, MESSAGE, RETURN, START},
    turns::Parts,
    weighted::Weighted,
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Message, ToolCall};
use serde_json::Value;
use std::ops::Range;

const THINK: [&str; 2] = ["<think>", "</think>"];

/// Puts content into the parts of its message, split where it holds more than one of them. A call
/// that is written by hand goes to `message`. Returns whether a `<think>` block was taken out.
///
/// # Errors
/// Markers in places where they would break the message apart.
pub fn split(
    content: Weighted,
    think_to_analysis: bool,
    parts: &mut Parts,
    message: &mut Message,
) -> Result<bool> {
    if content.text.contains(CHANNEL) && content.text.contains(MESSAGE) {
        by_markers(&content, parts, message)?;
        return Ok(false);
    }
    refuse_markers(&content.text)?;
    let has_thinking = parts.thinking.as_ref().is_some_and(|t| !t.text.is_empty());
    let block = think_block(&content.text).filter(|_| think_to_analysis && !has_thinking);
    let Some((inner, rest)) = block else {
        parts.content = Some(content);
        return Ok(false);
    };
    if !inner.is_empty() {
        parts.thinking = Some(content.slice(inner));
    }
    parts.content = Some(content.slice(rest));
    Ok(true)
}

/// Where the reasoning of a leading `<think>..</think>` stands, and the answer after it, both
/// without the white space around them.
fn think_block(text: &str) -> Option<(Range<usize>, Range<usize>)> {
    let [open, close] = THINK;
    let body = text.trim_start().strip_prefix(open)?;
    let from = text.len() - body.len();
    let inner = &body[..body.find(close)?];
    let rest = text[from + inner.len() + close.len()..].trim_start();
    let lead = inner.len() - inner.trim_start().len();
    let inner_from = from + lead;
    Some((
        inner_from..inner_from + inner.trim().len(),
        text.len() - rest.len()..text.len(),
    ))
}

/// Content written by hand as
/// `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`, or with
/// a call, ` to=functions.name<|channel|>commentary json<|message|>{..}<|call|>`, at its end.
fn by_markers(content: &Weighted, parts: &mut Parts, message: &mut Message) -> Result<()> {
    let text = content.text.as_str();
    let prefix = if text.starts_with(START) {
        ""
    } else {
        ASSISTANT
    };
    let trimmed = text.trim_end();
    let closed = [harmony::END, RETURN, harmony::CALL]
        .iter()
        .any(|end| trimmed.ends_with(end));
    let full = match closed {
        true => format!("{prefix}{trimmed}"),
        false => format!("{prefix}{text}{RETURN}"),
    };
    let context = "content with harmony's own markers";
    for span in harmony::parse(&full).context(context)? {
        let own = span.body.start - prefix.len()..span.body.end - prefix.len();
        let header = &span.header;
        refuse_markers(&text[own.clone()])?;
        let channel = header.channel.as_deref();
        let place = match (header.role.as_str(), &header.recipient, channel) {
            ("assistant", None, Some("analysis")) => &mut parts.thinking,
            ("assistant", None, Some("final")) => &mut parts.content,
            ("assistant", Some(tool), Some("commentary")) if message.tool_calls.is_empty() => {
                let (call, weighted) = call(tool, content.slice(own)).context(context)?;
                message.tool_calls.push(call);
                parts.call = Some(weighted);
                continue;
            }
            _ => bail!(
                "{context}: expected the assistant's analysis, then its final message or one call \
                 of a tool, found `{}`",
                &full[span.opening.start + START.len()..span.head.end]
            ),
        };
        ensure!(
            place.is_none(),
            "{context}: two {} messages",
            channel.unwrap_or_default()
        );
        *place = Some(content.slice(own));
    }
    Ok(())
}

/// A call by hand. The renderers write its arguments anew, so the whole text takes one weight: that
/// of its last trained byte.
fn call(tool: &str, body: Weighted) -> Result<(ToolCall, Weighted)> {
    let arguments: Value =
        serde_json::from_str(&body.text).context("the arguments of a call must be JSON")?;
    let text = super::json::dumps(&arguments);
    let call = ToolCall {
        name: tool.strip_prefix("functions.").unwrap_or(tool).to_owned(),
        arguments,
    };
    Ok((call, Weighted::uniform(&text, body.close)))
}

/// Refuses text in which a marker of harmony's would open or close a message.
///
/// # Errors
/// The marker that was found.
pub fn refuse_markers(text: &str) -> Result<()> {
    if let Some(marker) = harmony::find_marker(text) {
        bail!("the text holds harmony's marker {marker}, which would break the message apart");
    }
    Ok(())
}
