//! A chat completion as a whole.

use super::calls::call_id;
use crate::serve::answer::{Reading, TokenEntry, Whole};
use serde::Serialize;
use serde_json::{Value, json};

/// What every part of an answer has in common.
pub struct Shown {
    /// The completion's id.
    pub id: String,
    /// The model's name.
    pub model: String,
    /// When it was asked, in seconds since 1970.
    pub created: u64,
    /// Whether log-probabilities are told.
    pub logprobs: bool,
    /// Whether reasoning is told.
    pub include_reasoning: bool,
}

/// Counts of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of the answers.
    pub completion_tokens: usize,
    /// Of these, reasoning.
    pub reasoning_tokens: usize,
}

impl Usage {
    /// Of answers with these tokens and tokens of reasoning.
    pub fn of(prompt_tokens: usize, answers: impl Iterator<Item = (usize, usize)>) -> Self {
        answers.fold(
            Self {
                prompt_tokens,
                ..Self::default()
            },
            |sum, (tokens, reasoning)| Self {
                completion_tokens: sum.completion_tokens + tokens,
                reasoning_tokens: sum.reasoning_tokens + reasoning,
                ..sum
            },
        )
    }

    /// As OpenAI writes them.
    pub fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        })
    }
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: Value,
    logprobs: Value,
    finish_reason: Option<&'static str>,
}

/// The response.
pub fn whole(shown: &Shown, answers: Vec<(Reading, Whole)>, usage: Usage) -> Value {
    let choice = |(index, (reading, whole)): (usize, (Reading, Whole))| Choice {
        index,
        logprobs: logprobs(shown, whole.entries),
        finish_reason: reading.word(),
        message: {
            let mut message = json!({
                "role": "assistant",
                "content": whole.content,
                "refusal": null,
                "annotations": [],
            });
            if shown.include_reasoning
                && let Some(reasoning) = whole.reasoning
            {
                message["reasoning"] = reasoning.as_str().into();
                message["reasoning_content"] = reasoning.into();
            }
            if !whole.calls.is_empty() {
                let calls = whole.calls.into_iter().map(|call| {
                    json!({
                        "id": call_id(),
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    })
                });
                message["tool_calls"] = calls.collect();
            }
            message
        },
    };
    let choices: Vec<Choice> = answers.into_iter().enumerate().map(choice).collect();
    json!({
        "id": shown.id,
        "object": "chat.completion",
        "created": shown.created,
        "model": shown.model,
        "choices": choices,
        "usage": usage.json(),
        "system_fingerprint": null,
    })
}

/// The log-probabilities of some tokens.
pub fn logprobs(shown: &Shown, entries: Vec<TokenEntry>) -> Value {
    match shown.logprobs {
        true => json!({"content": entries, "refusal": null}),
        false => Value::Null,
    }
}
