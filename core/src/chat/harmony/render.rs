//! The built-in renderer: harmony text of a conversation, without a template.
//!
//! It follows the format as openai/gpt-oss's own template writes it (revision of 2025-08-08), down
//! to which reasoning is kept: that of the last answer, and that before a tool call to which no
//! later answer belongs. With `keep_thinking` all of it is kept. What the template has no place for is written
//! as harmony has it: a text that is named commentary, and reasoning and commentary that stand in messages
//! of their own ([`turns`](crate::chat::turns)).

use super::{ASSISTANT, CALL, END, RETURN, tools};
use crate::chat::{json::dumps, template::RenderOptions, template::is_system, turns::COMMENTARY};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Conversation, Message};
use serde_json::{Map, Value};

const IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";
const CUTOFF: &str = "2024-06";
const EFFORT: &str = "medium";

/// Renders a conversation.
///
/// # Errors
/// A message that harmony cannot hold, named by its number (from 1).
pub fn render(conversation: &Conversation, options: &RenderOptions) -> Result<String> {
    let messages = options.messages(conversation);
    ensure!(!messages.is_empty(), "the conversation has no messages");
    let variables = options.variables(conversation);
    let tools = conversation.tools.as_slice();
    let mut out = String::new();
    system(&mut out, &variables, !tools.is_empty(), options)?;
    let instructions = messages.first().filter(|message| is_system(message));
    developer(&mut out, instructions, tools)?;

    let skip = usize::from(instructions.is_some());
    let mut last_call = None;
    for (i, message) in messages.iter().enumerate().skip(skip) {
        let later = &messages[i + 1..];
        let prompted = options.add_generation_prompt;
        match message.role.as_str() {
            "assistant" => {
                let place = Place {
                    is_last: later.is_empty() && !prompted,
                    in_last_turn: later.iter().all(|m| m.role == "assistant") && !prompted,
                    answered: later.iter().any(answers),
                    keep_thinking: options.keep_thinking,
                };
                assistant(&mut out, message, &place, &mut last_call)
            }
            "tool" => tool(&mut out, message, last_call),
            "user" => text(message, "content").map(|body| {
                block(&mut out, "user", body, END);
            }),
            _ => Ok(()),
        }
        .with_context(|| format!("message {} ({})", i + 1, message.role))?;
    }
    if options.add_generation_prompt {
        out.push_str(ASSISTANT);
    }
    Ok(out)
}

fn block(out: &mut String, header: &str, body: &str, end: &str) {
    for part in ["<|start|>", header, "<|message|>", body, end] {
        out.push_str(part);
    }
}

fn text<'a>(message: &'a Message, what: &str) -> Result<&'a str> {
    let found = message.text();
    found.with_context(|| format!("{what} must be text, found {}", message.content))
}

fn system(
    out: &mut String,
    variables: &Map<String, Value>,
    has_tools: bool,
    options: &RenderOptions,
) -> Result<()> {
    let variable = |name: &str, default: &'static str| match variables.get(name) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("`{name}` must be text, found {other}"),
    };
    if variables.get("builtin_tools").is_some_and(tools::truthy) {
        bail!("`builtin_tools` needs the model's own chat_template.jinja");
    }
    let mut body = format!(
        "{}\nKnowledge cutoff: {CUTOFF}\nCurrent date: {}\n\nReasoning: {}\n\n# Valid channels: \
         analysis, commentary, final. Channel must be included for every message.",
        variable("model_identity", IDENTITY)?,
        options.today()?.format("%Y-%m-%d"),
        variable("reasoning_effort", EFFORT)?,
    );
    if has_tools {
        body.push_str("\nCalls to these tools must go to the commentary channel: 'functions'.");
    }
    block(out, "system", &body, END);
    Ok(())
}

fn developer(out: &mut String, instructions: Option<&Message>, tools: &[Value]) -> Result<()> {
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
        block(out, "developer", &body, END);
    }
    Ok(())
}

/// Where an assistant's message stands.
struct Place {
    /// It ends the conversation.
    is_last: bool,
    /// No message of a user or a tool comes after it.
    in_last_turn: bool,
    /// A later message of the assistant answers.
    answered: bool,
    keep_thinking: bool,
}

fn answers(message: &Message) -> bool {
    message.role == "assistant" && message.tool_calls.is_empty() && !is_open(message)
}

/// Whether a message is reasoning or commentary that another one of the same turn goes on from.
fn is_open(message: &Message) -> bool {
    let reasons = message.content.is_null() && message.thinking.is_some();
    message.tool_calls.is_empty() && (reasons || is_commentary(message))
}

fn is_commentary(message: &Message) -> bool {
    message.channel.as_deref() == Some(COMMENTARY)
}

fn assistant<'a>(
    out: &mut String,
    message: &'a Message,
    place: &Place,
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
                "a tool call with both content and thinking; harmony has one place for them, the \
                 analysis message before the call"
            ),
            (content, thinking) => content.or(thinking),
        };
        if let Some(analysis) = analysis.filter(|_| !place.answered || place.keep_thinking) {
            block(out, "assistant<|channel|>analysis", analysis, END);
        }
        if let Some(content) = content.filter(|_| is_commentary(message)) {
            block(out, "assistant<|channel|>commentary", content, END);
        }
        let header = format!(
            "assistant to=functions.{}<|channel|>commentary json",
            call.name
        );
        block(out, &header, &dumps(&call.arguments), CALL);
        *last_call = Some(&call.name);
        return Ok(());
    }
    if is_open(message) {
        let keep = place.in_last_turn || !place.answered || place.keep_thinking;
        if let Some(thinking) = thinking.filter(|_| keep) {
            block(out, "assistant<|channel|>analysis", thinking, END);
        }
        if let Some(content) = message.text() {
            block(out, "assistant<|channel|>commentary", content, END);
        }
        return Ok(());
    }
    if let Some(thinking) = thinking.filter(|_| place.is_last || place.keep_thinking) {
        block(out, "assistant<|channel|>analysis", thinking, END);
    }
    let end = if place.is_last { RETURN } else { END };
    block(
        out,
        "assistant<|channel|>final",
        text(message, "content")?,
        end,
    );
    if !place.is_last {
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

fn tool(out: &mut String, message: &Message, last_call: Option<&str>) -> Result<()> {
    let Some(name) = last_call else {
        bail!("the result of a tool, but no assistant message before it calls one");
    };
    let header = format!("functions.{name} to=assistant<|channel|>commentary");
    block(out, &header, &dumps(&message.content), END);
    Ok(())
}
