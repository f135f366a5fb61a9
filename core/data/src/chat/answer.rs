//! Turns a message of the assistant into the texts that are rendered: reasoning is taken out of the content, the call
//! gets its weights, and content with harmony's own markers is read as the messages that it holds.

use super::{
    call,
    json::dumps,
    scale::Chain,
    split::{HarmonyMessage, SplitContent, split},
    turns::{COMMENTARY, FINAL, Parts, fixed_weight, weigh},
    weighted::Weighted,
};
use anyhow::{Result, bail, ensure};
use apus_sdk::{Field, Message, ToolCall, Turn};
use serde_json::Value;

/// A message and its texts.
type Entry = (Message, Parts);

/// Returns the messages, and whether a `<think>` block was taken out of the content. Content with harmony's own markers
/// may be several messages.
///
/// # Errors
/// Harmony cannot hold the content or the call, or a loss scale fails.
pub fn answer(
    message: &Message,
    turn: &Turn,
    chain: &Chain,
    think_to_analysis: bool,
) -> Result<(Vec<Entry>, bool)> {
    if let Some(channel) = &message.channel {
        ensure!(
            channel == FINAL || channel == COMMENTARY,
            "channel `{channel}` of a content, expected {FINAL} or {COMMENTARY} (reasoning is `thinking`)"
        );
    }
    let mut parts = Parts::default();
    if let Some(thinking) = &message.thinking {
        let turn = Turn {
            field: Field::Thinking,
            ..turn.clone()
        };
        parts.thinking = Some(weigh(thinking, message, &turn, chain)?);
    }
    parts.call = structured_call(message, turn, chain)?;
    let content = match &message.content {
        Value::Null => None,
        Value::String(text) => Some(weigh(text, message, turn, chain)?),
        other => bail!("content must be text, found {other}"),
    };
    let split = content.map(|content| {
        let thinking = message.thinking.as_deref();
        split(content, think_to_analysis, thinking)
    });
    let (moved, by_hand) = match split.transpose()? {
        None => (false, None),
        Some(SplitContent::Whole(content)) => {
            parts.content = Some(content);
            (false, None)
        }
        Some(SplitContent::WithThinking(thinking, content)) => {
            let has_thinking = parts.thinking.as_ref().is_some_and(|t| !t.text.is_empty());
            if !has_thinking && !thinking.text.is_empty() {
                parts.thinking = Some(thinking);
            }
            parts.content = Some(content);
            (true, None)
        }
        Some(SplitContent::ByHand(pieces)) => (false, Some(pieces)),
    };
    let calls = message.tool_calls.clone();
    let Some(pieces) = by_hand else {
        let channel = message.channel.clone();
        return Ok((vec![entry(message, parts, calls, channel)], moved));
    };
    ensure!(
        message.channel.is_none(),
        "content with harmony's own markers, and a channel besides"
    );
    let Parts { thinking, call, .. } = parts;
    let mut entries = Vec::new();
    if thinking.is_some() {
        let analyses = pieces
            .iter()
            .filter(|piece| matches!(piece, HarmonyMessage::Analysis(_)));
        ensure!(
            analyses.count() == 0,
            "`thinking`, and an analysis message in the content too; leave one of them out"
        );
        let parts = Parts {
            thinking,
            ..Parts::default()
        };
        entries.push(entry(message, parts, Vec::new(), None));
    }
    entries.extend(pieces.into_iter().map(|piece| by_itself(message, piece)));
    if call.is_some() {
        ensure!(
            entries
                .iter()
                .all(|(by_hand, _)| by_hand.tool_calls.is_empty()),
            "a call of a tool, and another one in the content"
        );
        let parts = Parts {
            call,
            ..Parts::default()
        };
        entries.push(entry(message, parts, calls, None));
    }
    Ok((entries, false))
}

/// Makes a message with these texts.
fn entry(
    message: &Message,
    parts: Parts,
    tool_calls: Vec<ToolCall>,
    channel: Option<String>,
) -> Entry {
    let text = |part: &Option<Weighted>| part.as_ref().map(|part| part.text.clone());
    let message = Message {
        content: text(&parts.content).map_or(Value::Null, Value::from),
        thinking: text(&parts.thinking),
        tool_calls,
        channel,
        ..message.clone()
    };
    (message, parts)
}

/// Makes a message of one that was written with harmony's own markers, with the channel that it names.
fn by_itself(message: &Message, piece: HarmonyMessage) -> Entry {
    let mut parts = Parts::default();
    let mut calls = Vec::new();
    let channel = match piece {
        HarmonyMessage::Analysis(text) => {
            parts.thinking = Some(text);
            None
        }
        HarmonyMessage::Commentary(text) => {
            parts.content = Some(text);
            Some(COMMENTARY.to_owned())
        }
        HarmonyMessage::Final(text) => {
            parts.content = Some(text);
            Some(FINAL.to_owned())
        }
        HarmonyMessage::Call(call, arguments) => {
            parts.call = Some(arguments);
            calls.push(call);
            None
        }
    };
    entry(message, parts, calls, channel)
}

/// The arguments of a message's call, with their weights.
fn structured_call(message: &Message, turn: &Turn, chain: &Chain) -> Result<Option<Weighted>> {
    let [one, more @ ..] = message.tool_calls.as_slice() else {
        return Ok(None);
    };
    ensure!(
        more.is_empty(),
        "{} tool calls in one message, but harmony renders one a message: write an assistant \
         message for each call, followed by its result",
        message.tool_calls.len()
    );
    let text = dumps(&one.arguments);
    ensure!(
        !one.name.is_empty() && !one.name.contains([' ', '<', '\n', '\t', '\r']),
        "a tool is called `{}`; names are not empty and hold neither white space nor `<`",
        one.name
    );
    Ok(Some(match fixed_weight(message, turn, chain.base())? {
        Some(weight) => Weighted::uniform(&text, weight),
        None => call::weigh(&one.name, &text, turn, chain)?,
    }))
}
