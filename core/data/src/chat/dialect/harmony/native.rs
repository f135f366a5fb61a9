//! Writes harmony as the model's chat template does, without a template.
//!
//! It follows the template of openai/gpt-oss (revision of 2025-08-08), quirks included, down to which
//! reasoning is kept: that of the last answer, and that before a tool call to which no later answer
//! belongs. With `keep_thinking` all of it is kept. What the template cannot hold is written as
//! harmony has it: a text that is named commentary, and reasoning and commentary in messages of their own
//! ([`turn`](super::turn)).

use super::{
    ANALYSIS, CALL, COMMENTARY, END, FINAL, RETURN,
    frame::{FrameHeader, message as block, prompt},
    system::system,
    tools,
};
use crate::chat::{
    json::dumps,
    rendered::Rendered,
    template::{RenderOptions, is_system},
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Message};
use serde_json::Value;

/// SHA-256 of chat_template.jinja of openai/gpt-oss-20b and -120b, revision of 2025-08-08, which this renderer follows.
pub const PUBLISHED_TEMPLATE: &str =
    "a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146";

/// Renders a conversation.
///
/// # Errors
/// Harmony cannot hold a message; the error names its number (from 1).
pub fn render(conversation: &Conversation, options: &RenderOptions) -> Result<Rendered> {
    let messages = options.messages(conversation);
    ensure!(!messages.is_empty(), "the conversation has no messages");
    let tools = conversation.tools.as_slice();
    let mut out = Rendered::default();
    let body = system(&options.variables(conversation), !tools.is_empty(), options)?;
    block(&mut out, &FrameHeader::of("system"), &body, END);
    let instructions = messages.first().filter(|message| is_system(message));
    developer(&mut out, instructions, tools)?;

    let skip = usize::from(instructions.is_some());
    let mut last_call = None;
    for (i, message) in messages.iter().enumerate().skip(skip) {
        let later = &messages[i + 1..];
        let prompted = options.add_generation_prompt;
        match message.role.as_str() {
            "assistant" => {
                let position = TurnPosition {
                    is_last: later.is_empty() && !prompted,
                    in_last_turn: later.iter().all(|m| m.role == "assistant") && !prompted,
                    answered: later.iter().any(answers),
                    keep_thinking: options.keep_thinking,
                };
                assistant(&mut out, message, &position, &mut last_call)
            }
            "tool" => tool(&mut out, message, last_call),
            "user" => text(message, "content").map(|body| {
                block(&mut out, &FrameHeader::of("user"), body, END);
            }),
            _ => Ok(()),
        }
        .with_context(|| format!("message {} ({})", i + 1, message.role))?;
    }
    if options.add_generation_prompt {
        prompt(&mut out);
    }
    Ok(out)
}

/// The content of a message that has to be text.
pub(super) fn text<'a>(message: &'a Message, what: &str) -> Result<&'a str> {
    let found = message.text();
    found.with_context(|| format!("{what} must be text, found {}", message.content))
}

fn developer(out: &mut Rendered, instructions: Option<&Message>, tools: &[Value]) -> Result<()> {
    let mut body = String::new();
    if let Some(message) = instructions {
        let instructions = text(message, "content").context("message 1")?;
        if !instructions.is_empty() {
            body = format!("# Instructions\n\n{instructions}\n\n");
        }
    }
    if !tools.is_empty() {
        body.push_str("# Tools\n\n");
        body.push_str(&tools::namespace("functions", tools)?);
    }
    if !body.is_empty() {
        block(out, &FrameHeader::of("developer"), &body, END);
    }
    Ok(())
}

/// The position of an assistant's message in the conversation.
struct TurnPosition {
    /// It ends the conversation.
    is_last: bool,
    /// No message of a user or a tool comes after it.
    in_last_turn: bool,
    /// A later message of the assistant is an answer.
    answered: bool,
    keep_thinking: bool,
}

fn answers(message: &Message) -> bool {
    message.role == "assistant" && message.tool_calls.is_empty() && !is_open(message)
}

/// Whether a message is reasoning or commentary that another message of the same turn continues.
pub(super) fn is_open(message: &Message) -> bool {
    let reasons = message.content.is_null() && message.thinking.is_some();
    message.tool_calls.is_empty() && (reasons || is_commentary(message))
}

/// Whether a text is named commentary.
pub(super) fn is_commentary(message: &Message) -> bool {
    message.channel.as_deref() == Some(COMMENTARY)
}

fn assistant<'a>(
    out: &mut Rendered,
    message: &'a Message,
    position: &TurnPosition,
    last_call: &mut Option<&'a str>,
) -> Result<()> {
    let thinking = message.thinking.as_deref();
    for (field, text) in [("content", message.text()), ("thinking", thinking)] {
        if has_channel(text) {
            bail!(
                "{field} holds harmony's channel markers; give the analysis as `thinking` and the \
                 final text as `content`"
            );
        }
    }
    if let Some(call) = message.tool_calls.first() {
        let content = message.text().filter(|text| !text.is_empty());
        let thinking = thinking.filter(|text| !text.is_empty());
        let analysis = match (content, thinking) {
            (_, thinking) if is_commentary(message) => thinking,
            (Some(_), Some(_)) => bail!(
                "a tool call with both content and thinking, for which the model's template has one \
                 place, the analysis message before the call; --template_backend harmony writes both"
            ),
            (content, thinking) => content.or(thinking),
        };
        if let Some(analysis) = analysis.filter(|_| !position.answered || position.keep_thinking) {
            block(out, &FrameHeader::assistant(ANALYSIS), analysis, END);
        }
        if let Some(content) = content.filter(|_| is_commentary(message)) {
            block(out, &FrameHeader::assistant(COMMENTARY), content, END);
        }
        block(
            out,
            &FrameHeader::call(&call.name),
            &dumps(&call.arguments),
            CALL,
        );
        *last_call = Some(&call.name);
        return Ok(());
    }
    if is_open(message) {
        let keep = position.in_last_turn || !position.answered || position.keep_thinking;
        if let Some(thinking) = thinking.filter(|_| keep) {
            block(out, &FrameHeader::assistant(ANALYSIS), thinking, END);
        }
        if let Some(content) = message.text() {
            block(out, &FrameHeader::assistant(COMMENTARY), content, END);
        }
        return Ok(());
    }
    if let Some(thinking) = thinking.filter(|_| position.is_last || position.keep_thinking) {
        block(out, &FrameHeader::assistant(ANALYSIS), thinking, END);
    }
    let end = if position.is_last { RETURN } else { END };
    block(
        out,
        &FrameHeader::assistant(FINAL),
        text(message, "content")?,
        end,
    );
    if !position.is_last {
        *last_call = None;
    }
    Ok(())
}

fn has_channel(text: Option<&str>) -> bool {
    let marks = [
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
    ];
    text.is_some_and(|text| marks.iter().any(|mark| text.contains(mark)))
}

fn tool(out: &mut Rendered, message: &Message, last_call: Option<&str>) -> Result<()> {
    let Some(name) = last_call else {
        bail!("the result of a tool, but no assistant message before it calls one");
    };
    block(
        out,
        &FrameHeader::result(name),
        &dumps(&message.content),
        END,
    );
    Ok(())
}
