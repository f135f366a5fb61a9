//! Splits content that holds reasoning, calls and answer in one text, with harmony's own markers as ms-swift requires them.
//! Each part keeps its weights.

use super::{
    ANALYSIS, ASSISTANT, CALL, CHANNEL, COMMENTARY, END, FINAL, FUNCTIONS, MESSAGE, RETURN, START,
    parse::parse,
};
use crate::chat::{json::dumps, weighted::Weighted};
use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::{ToolCall, json};
use serde_json::{Map, Value};

/// A message of harmony that was written with its markers.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageByHand {
    /// Reasoning.
    Analysis(Weighted),
    /// Words to the user before a call or an answer.
    Commentary(Weighted),
    /// An answer.
    Final(Weighted),
    /// A call of a tool, and its arguments.
    Call(ToolCall, Weighted),
}

/// Whether content is written with harmony's own markers: it begins as an assistant's message does, and has a body.
/// Markers anywhere else are text that somebody typed.
pub fn is_by_hand(text: &str) -> bool {
    let begins = [START, CHANNEL, "to="];
    let trimmed = text.trim_start();
    begins.iter().any(|begin| trimmed.starts_with(begin))
        && text.contains(CHANNEL)
        && text.contains(MESSAGE)
}

/// Reads content written as
/// `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`, or with
/// a call, ` to=functions.name<|channel|>commentary json<|message|>{..}<|call|>`, at its end.
///
/// # Errors
/// The markers do not stand as harmony has them, or a call is none.
pub fn split(content: &Weighted) -> Result<Vec<MessageByHand>> {
    let text = content.text.trim_start();
    let skipped = content.text.len() - text.len();
    let opening = format!("{ASSISTANT} ");
    let prefix = if text.starts_with(START) {
        ""
    } else {
        opening.as_str()
    };
    let trimmed = text.trim_end();
    let closed = [END, RETURN, CALL].iter().any(|end| trimmed.ends_with(end));
    let full = match closed {
        true => format!("{prefix}{trimmed}"),
        false => format!("{prefix}{text}{RETURN}"),
    };
    let context = "content with harmony's own markers";
    let mut pieces = Vec::new();
    for span in parse(&full).context(context)? {
        if let Some(MessageByHand::Final(_) | MessageByHand::Call(..)) = pieces.last() {
            bail!("{context}: a message goes on after its final answer or its call");
        }
        let in_content = |at: usize| skipped + at - prefix.len();
        let own = in_content(span.body.start)..in_content(span.body.end);
        let header = &span.header;
        let body = content.slice(own);
        let channel = header.channel.as_deref();
        pieces.push(match (header.role.as_str(), &header.recipient, channel) {
            ("assistant", None, Some(ANALYSIS)) => MessageByHand::Analysis(body),
            ("assistant", None, Some(COMMENTARY)) => MessageByHand::Commentary(body),
            ("assistant", None, Some(FINAL)) => MessageByHand::Final(body),
            ("assistant", Some(tool), Some(COMMENTARY)) => {
                let (call, weighted) = call(tool, body).context(context)?;
                MessageByHand::Call(call, weighted)
            }
            _ => bail!(
                "{context}: expected the assistant's analysis and commentary, then its final message or one \
                 call of a tool, found `{}`",
                &full[span.opening.start + START.len()..span.head.end]
            ),
        });
    }
    Ok(pieces)
}

/// Reads a call that was written with harmony's markers. The renderers write its arguments again, so the whole text gets
/// one weight, that of its last trained byte.
fn call(tool: &str, body: Weighted) -> Result<(ToolCall, Weighted)> {
    let Some(name) = tool.strip_prefix(FUNCTIONS) else {
        bail!("a call to `{tool}`; only functions can be called, as `{FUNCTIONS}name`");
    };
    let arguments = match body.text.trim() {
        "" | "null" => Value::Object(Map::new()),
        text => json::read(text)
            .map_err(|error| anyhow!("the arguments of a call must be JSON: {error}"))?,
    };
    let text = dumps(&arguments);
    let call = ToolCall {
        name: name.to_owned(),
        arguments,
    };
    Ok((call, Weighted::uniform(&text, body.close)))
}
