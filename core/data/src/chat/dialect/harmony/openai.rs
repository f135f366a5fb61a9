//! Writes harmony as OpenAI's library openai-harmony 0.0.8 does, which servers built on it use.
//!
//! It differs from the model's chat template: instructions end without a blank line, results of tools stand as
//! they are, tool definitions are laid out otherwise ([`schema`](super::schema)), reasoning and preamble
//! of a call both have their place, and analysis is dropped by another rule: that before the first
//! final message, where the last message of the assistant is a final one.

use super::{
    ANALYSIS, CALL, COMMENTARY, END, FINAL, RETURN,
    frame::{self, FrameHeader},
    native::{is_open, text},
    schema,
    system::{EFFORTS, system},
};
use crate::chat::{
    json::dumps,
    rendered::Rendered,
    template::{RenderOptions, is_system},
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Message};
use serde_json::Value;
use std::borrow::Cow;

/// One of harmony's messages.
struct Entry<'a> {
    head: FrameHeader<'a>,
    body: Cow<'a, str>,
}

impl<'a> Entry<'a> {
    fn new(head: FrameHeader<'a>, body: impl Into<Cow<'a, str>>) -> Self {
        Self {
            head,
            body: body.into(),
        }
    }

    fn is(&self, channel: &str) -> bool {
        self.head.author == "assistant" && self.head.channel == Some(channel)
    }

    fn calls(&self) -> bool {
        self.head.author == "assistant" && self.head.recipient.is_some()
    }
}

/// Renders a conversation: for training, or with a generation prompt for the model to go on from.
///
/// # Errors
/// Harmony cannot hold a message, which the error names by its number (from 1), or the library does not know the effort.
pub fn render(conversation: &Conversation, options: &RenderOptions) -> Result<Rendered> {
    let messages = options.messages(conversation);
    ensure!(!messages.is_empty(), "the conversation has no messages");
    let entries = entries(&messages, conversation, options)?;
    let is_final = |entry: &&Entry| entry.is(FINAL);
    let last_answers = entries.iter().rev().find(|e| e.head.author == "assistant");
    let drops = !options.keep_thinking && last_answers.as_ref().is_some_and(is_final);
    let first_final = entries.iter().position(|entry| entry.is(FINAL));

    let mut out = Rendered::default();
    for (i, entry) in entries.iter().enumerate() {
        if drops && entry.is(ANALYSIS) && first_final.is_some_and(|first| i < first) {
            continue;
        }
        let trains = i + 1 == entries.len() && !options.add_generation_prompt;
        let end = match entry {
            _ if entry.calls() => CALL,
            _ if trains && entry.is(FINAL) => RETURN,
            _ => END,
        };
        frame::message(&mut out, &entry.head, &entry.body, end);
    }
    if options.add_generation_prompt {
        frame::prompt(&mut out);
    }
    Ok(out)
}

fn entries<'a>(
    messages: &'a [Message],
    conversation: &Conversation,
    options: &RenderOptions,
) -> Result<Vec<Entry<'a>>> {
    let variables = options.variables(conversation);
    if let Some(effort) = variables.text("reasoning_effort")? {
        ensure!(
            EFFORTS.contains(&effort),
            "reasoning_effort is {effort:?}, but openai-harmony knows {}",
            EFFORTS.join(", ")
        );
    }
    let has_tools = !conversation.tools.is_empty();
    let first = system(&variables, has_tools, options)?;
    let mut entries = vec![Entry::new(FrameHeader::of("system"), first)];
    let instructions = messages.first().filter(|message| is_system(message));
    if let Some(body) = developer(instructions, &conversation.tools)? {
        entries.push(Entry::new(FrameHeader::of("developer"), body));
    }
    let mut last_call = None;
    let rest = messages.iter().enumerate();
    for (i, message) in rest.skip(usize::from(instructions.is_some())) {
        match message.role.as_str() {
            "assistant" => assistant(&mut entries, message, &mut last_call),
            "tool" => tool(&mut entries, message, last_call),
            _ => text(message, "content").map(|body| {
                entries.push(Entry::new(FrameHeader::of(&message.role), body));
            }),
        }
        .with_context(|| format!("message {} ({})", i + 1, message.role))?;
    }
    Ok(entries)
}

/// The developer message, unless it would be empty.
fn developer(instructions: Option<&Message>, tools: &[Value]) -> Result<Option<String>> {
    let mut sections = Vec::new();
    if let Some(message) = instructions {
        let instructions = text(message, "content").context("message 1")?;
        if !instructions.is_empty() {
            sections.push(format!("# Instructions\n\n{instructions}"));
        }
    }
    if !tools.is_empty() {
        sections.push(format!(
            "# Tools\n\n{}",
            schema::namespace("functions", tools)?
        ));
    }
    Ok((!sections.is_empty()).then(|| sections.join("\n\n")))
}

fn assistant<'a>(
    entries: &mut Vec<Entry<'a>>,
    message: &'a Message,
    last_call: &mut Option<&'a str>,
) -> Result<()> {
    let filled = |text: Option<&'a str>| text.filter(|text| !text.is_empty());
    if let Some(thinking) = filled(message.thinking.as_deref()) {
        entries.push(Entry::new(FrameHeader::assistant(ANALYSIS), thinking));
    }
    if is_open(message) {
        if let Some(commentary) = message.text() {
            entries.push(Entry::new(FrameHeader::assistant(COMMENTARY), commentary));
        }
        return Ok(());
    }
    if message.tool_calls.is_empty() {
        let answer = text(message, "content")?;
        entries.push(Entry::new(FrameHeader::assistant(FINAL), answer));
        *last_call = None;
        return Ok(());
    }
    if !message.content.is_null()
        && let Some(preamble) = filled(Some(text(message, "content")?))
    {
        entries.push(Entry::new(FrameHeader::assistant(COMMENTARY), preamble));
    }
    for call in &message.tool_calls {
        entries.push(Entry::new(
            FrameHeader::call(&call.name),
            dumps(&call.arguments),
        ));
        *last_call = Some(&call.name);
    }
    Ok(())
}

fn tool<'a>(
    entries: &mut Vec<Entry<'a>>,
    message: &'a Message,
    last_call: Option<&str>,
) -> Result<()> {
    let Some(name) = last_call else {
        bail!("the result of a tool, but no assistant message before it calls one");
    };
    let body = match message.text() {
        Some(text) => Cow::from(text),
        None => Cow::from(dumps(&message.content)),
    };
    entries.push(Entry::new(FrameHeader::result(name), body));
    Ok(())
}
