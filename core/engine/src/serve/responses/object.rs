//! The response as an object.

use serde_json::{Value, json};

/// What of a request is told with its response.
pub struct Shown {
    /// The response's id.
    pub id: String,
    /// The model's name.
    pub model: String,
    /// When it was asked, in seconds since 1970.
    pub created: u64,
    /// The instructions.
    pub instructions: Option<String>,
    /// The most tokens.
    pub max_output_tokens: Option<usize>,
    /// The temperature that was used.
    pub temperature: f64,
    /// The share of probability that was kept.
    pub top_p: f64,
    /// The effort that was asked for.
    pub effort: Option<String>,
    /// The form of the text that was asked for.
    pub format: Option<Value>,
    /// The tools.
    pub tools: Vec<Value>,
    /// Which of them.
    pub tool_choice: Option<Value>,
    /// The most probable tokens that are told.
    pub top_logprobs: usize,
    /// What the client keeps with it.
    pub metadata: Option<Value>,
}

impl Shown {
    /// The response with this status, these items and counts.
    pub fn json(&self, status: &str, incomplete: Value, output: Value, usage: Value) -> Value {
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": null,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": self.effort, "summary": null},
            "service_tier": "default",
            "store": false,
            "temperature": self.temperature,
            "text": {"format": self.format.clone().unwrap_or_else(|| json!({"type": "text"})), "verbosity": "medium"},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": self.tools,
            "top_logprobs": self.top_logprobs,
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": null,
            "metadata": self.metadata.clone().unwrap_or_else(|| json!({})),
        })
    }
}

/// The status of an answer that ended so, and what of it is incomplete.
pub fn status(word: Option<&'static str>) -> (&'static str, Value) {
    match word {
        Some("length") => ("incomplete", json!({"reason": "max_output_tokens"})),
        _ => ("completed", Value::Null),
    }
}

/// Counts of tokens.
pub fn usage(prompt: usize, tokens: usize, reasoning: usize) -> Value {
    json!({
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + tokens,
    })
}
