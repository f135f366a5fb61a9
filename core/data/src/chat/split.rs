//! Splits content that holds reasoning and answer in one text: with a leading `<think>..</think>`, or with harmony's own
//! markers as ms-swift requires them. Each part keeps its weights.

use super::{
    harmony::{self, ASSISTANT, CHANNEL, FUNCTIONS, MESSAGE, RETURN, START},
    weighted::Weighted,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_sdk::{ToolCall, json};
use serde_json::{Map, Value};
use std::ops::Range;

const THINK: [&str; 2] = ["<think>", "</think>"];

/// The parts that a content consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitContent {
    /// One text.
    Whole(Weighted),
    /// A `<think>` block and the text after it.
    WithThinking(Weighted, Weighted),
    /// Messages written with harmony's own markers.
    ByHand(Vec<HarmonyMessage>),
}

/// A message of harmony that was written with its markers.
#[derive(Debug, Clone, PartialEq)]
pub enum HarmonyMessage {
    /// Reasoning.
    Analysis(Weighted),
    /// Words to the user before a call or an answer.
    Commentary(Weighted),
    /// An answer.
    Final(Weighted),
    /// A call of a tool, and its arguments.
    Call(ToolCall, Weighted),
}

/// Splits a content. `thinking` is reasoning that the message has in addition.
///
/// # Errors
/// There are markers where they would split the message.
pub fn split(
    content: Weighted,
    think_to_analysis: bool,
    thinking: Option<&str>,
) -> Result<SplitContent> {
    if is_harmony(&content.text) {
        return by_markers(&content).map(SplitContent::ByHand);
    }
    let Some((inner, rest)) = think_block(&content.text).filter(|_| think_to_analysis) else {
        return Ok(SplitContent::Whole(content));
    };
    let said = content.text[inner.clone()].trim();
    let thinking = thinking.map(str::trim).filter(|text| !text.is_empty());
    ensure!(
        said.is_empty() || thinking.is_none_or(|thinking| thinking == said),
        "a <think> block, and other reasoning besides; leave one of them out (with --think_to_analysis false the \
         block is text of the answer)"
    );
    Ok(SplitContent::WithThinking(
        content.slice(inner),
        content.slice(rest),
    ))
}

/// Whether content is written with harmony's own markers: it begins as an assistant's message does, and has a body.
/// Markers anywhere else are text that somebody typed.
fn is_harmony(text: &str) -> bool {
    let begins = [START, CHANNEL, "to="];
    let trimmed = text.trim_start();
    begins.iter().any(|begin| trimmed.starts_with(begin))
        && text.contains(CHANNEL)
        && text.contains(MESSAGE)
}

/// The ranges of the reasoning in a leading `<think>..</think>` and of the answer after it, both without the white space
/// around them.
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

/// Reads content written as
/// `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`, or with
/// a call, ` to=functions.name<|channel|>commentary json<|message|>{..}<|call|>`, at its end.
fn by_markers(content: &Weighted) -> Result<Vec<HarmonyMessage>> {
    let text = content.text.trim_start();
    let skipped = content.text.len() - text.len();
    let opening = format!("{ASSISTANT} ");
    let prefix = if text.starts_with(START) {
        ""
    } else {
        opening.as_str()
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
    let mut pieces = Vec::new();
    for span in harmony::parse(&full).context(context)? {
        if let Some(HarmonyMessage::Final(_) | HarmonyMessage::Call(..)) = pieces.last() {
            bail!("{context}: a message goes on after its final answer or its call");
        }
        let in_content = |at: usize| skipped + at - prefix.len();
        let own = in_content(span.body.start)..in_content(span.body.end);
        let header = &span.header;
        let body = content.slice(own);
        let channel = header.channel.as_deref();
        pieces.push(match (header.role.as_str(), &header.recipient, channel) {
            ("assistant", None, Some("analysis")) => HarmonyMessage::Analysis(body),
            ("assistant", None, Some("commentary")) => HarmonyMessage::Commentary(body),
            ("assistant", None, Some("final")) => HarmonyMessage::Final(body),
            ("assistant", Some(tool), Some("commentary")) => {
                let (call, weighted) = call(tool, body).context(context)?;
                HarmonyMessage::Call(call, weighted)
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
    let text = super::json::dumps(&arguments);
    let call = ToolCall {
        name: name.to_owned(),
        arguments,
    };
    Ok((call, Weighted::uniform(&text, body.close)))
}
