//! The system message, which is the same in both renderers.

use crate::chat::template::{RenderOptions, Variables};
use anyhow::{Result, bail};

const IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";
const CUTOFF: &str = "2024-06";
const EFFORT: &str = "medium";
const OF_EFFORT: &str = "reasoning_effort";
const OF_IDENTITY: &str = "model_identity";
const OF_TOOLS: &str = "builtin_tools";
/// The reasoning efforts that the models were trained with, and that openai-harmony knows.
pub const EFFORTS: [&str; 3] = ["low", "medium", "high"];
/// The variables of a conversation that the system message uses.
pub const VARIABLES: [&str; 3] = [OF_EFFORT, OF_IDENTITY, OF_TOOLS];

/// The body of the system message.
///
/// # Errors
/// A variable is not text, or asks for tools that are built into the model.
pub fn system(variables: &Variables, has_tools: bool, options: &RenderOptions) -> Result<String> {
    if variables.truthy(OF_TOOLS) {
        bail!("`{OF_TOOLS}` needs the model's own chat_template.jinja");
    }
    let mut body = format!(
        "{}\nKnowledge cutoff: {CUTOFF}\nCurrent date: {}\n\nReasoning: {}\n\n# Valid channels: \
         analysis, commentary, final. Channel must be included for every message.",
        variables.text(OF_IDENTITY)?.unwrap_or(IDENTITY),
        options.today()?.format("%Y-%m-%d"),
        variables.text(OF_EFFORT)?.unwrap_or(EFFORT),
    );
    if has_tools {
        body.push_str("\nCalls to these tools must go to the commentary channel: 'functions'.");
    }
    Ok(body)
}

/// A note on a reasoning effort that the models were not trained with.
pub fn remark(options: &RenderOptions) -> Option<String> {
    let effort = options.reasoning_effort.as_deref()?;
    let known = EFFORTS.contains(&effort);
    let note = || {
        format!(
            "reasoning_effort {effort}: gpt-oss knows {}",
            EFFORTS.join(", ")
        )
    };
    (!known).then(note)
}
