//! From OpenAI's messages to a conversation.

use crate::serve::http::ApiError;
use apus_sdk::{Conversation, Message, ToolCall, json as sdk_json};
use serde::Deserialize;
use serde_json::Value;

/// A message of a request.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ChatMessage {
    /// Its role.
    pub role: String,
    /// Its text.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who speaks; the chat template has no place for it.
    #[serde(default, rename = "name")]
    pub _name: Option<String>,
    /// The reasoning before an answer, by vLLM's older name.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// The reasoning before an answer.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// What the model said in place of an answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Calls of tools.
    #[serde(default)]
    pub tool_calls: Option<Vec<Call>>,
    /// The call that a tool answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// Sound, which is refused.
    #[serde(default)]
    pub audio: Option<Value>,
    /// A call in its old form, which is refused.
    #[serde(default)]
    pub function_call: Option<Value>,
}

/// Text, or parts of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected text, or a list of parts")]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, each an object with a type.
    Parts(Vec<Value>),
}

/// A call of a tool.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// The id by which its result names it.
    #[serde(default)]
    pub id: Option<String>,
    /// `function`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// What is called.
    pub function: Function,
}

/// The function of a call.
#[derive(Debug, Clone, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its arguments, JSON as text.
    #[serde(default)]
    pub arguments: Option<String>,
}

impl ChatMessage {
    /// A message without anything in it.
    pub fn of(role: &str) -> Self {
        Self {
            role: role.to_owned(),
            ..Self::default()
        }
    }
}

impl Content {
    /// The text of all parts.
    ///
    /// # Errors
    /// A part that is no text.
    pub fn text(&self, param: &str) -> Result<String, ApiError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Parts(parts) => {
                let parts = parts.iter().enumerate();
                parts
                    .map(|(at, part)| part_text(part, &format!("{param}[{at}]")))
                    .collect()
            }
        }
    }
}

/// The text of a part.
fn part_text<'a>(part: &'a Value, param: &str) -> Result<&'a str, ApiError> {
    let kind = part
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("missing");
    let key = match kind {
        "text" | "input_text" | "output_text" | "reasoning_text" | "summary_text" => "text",
        "refusal" => "refusal",
        _ => {
            return Err(ApiError::of(
                format!("{param}.type"),
                format!("is {kind}, expected text: the model reads nothing else"),
            ));
        }
    };
    let text = part.get(key).and_then(Value::as_str);
    text.ok_or_else(|| ApiError::of(format!("{param}.{key}"), "is missing, expected text"))
}

impl Call {
    fn read(&self, param: &str) -> Result<ToolCall, ApiError> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "function") {
            return Err(ApiError::of(
                format!("{param}.type"),
                format!("is {kind}, expected function"),
            ));
        }
        Ok(ToolCall {
            name: self.function.name.clone(),
            arguments: arguments(self.function.arguments.as_deref()),
        })
    }
}

/// The arguments of a call: what is no JSON stays the text that the model wrote.
fn arguments(text: Option<&str>) -> Value {
    match text.filter(|text| !text.trim().is_empty()) {
        None => Value::Object(serde_json::Map::new()),
        Some(text) => sdk_json::read(text).unwrap_or_else(|_| text.into()),
    }
}

/// The conversation of these messages.
///
/// # Errors
/// A message that cannot be meant; the error names it.
pub fn conversation(messages: &[ChatMessage]) -> Result<Conversation, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::of("messages", "is empty, expected a message"));
    }
    let mut read = Vec::with_capacity(messages.len());
    let mut at = 0;
    while at < messages.len() {
        let calls = messages[at].tool_calls.as_deref().unwrap_or_default();
        match calls.len() {
            0 | 1 => {
                read.push(message(&messages[at], at)?);
                at += 1;
            }
            _ => at = spread(messages, at, &mut read)?,
        }
    }
    Ok(Conversation {
        messages: instructions_first(read),
        ..Conversation::default()
    })
}

/// Several calls of one message, as other models make them: each becomes a message with its result after it. Returns where the
/// messages go on.
fn spread(messages: &[ChatMessage], at: usize, read: &mut Vec<Message>) -> Result<usize, ApiError> {
    let results = messages[at + 1..]
        .iter()
        .take_while(|next| next.role == "tool")
        .count();
    let results = &messages[at + 1..at + 1 + results];
    let calls = messages[at].tool_calls.as_deref().unwrap_or_default();
    for (number, call) in calls.iter().enumerate() {
        let param = format!("messages[{at}].tool_calls[{number}]");
        let result = results
            .iter()
            .position(|result| result.tool_call_id.is_some() && result.tool_call_id == call.id);
        let Some(result) = result else {
            let id = call.id.as_deref().unwrap_or("missing");
            return Err(ApiError::of(
                format!("{param}.id"),
                format!("is {id}, and no tool message after it has this tool_call_id"),
            ));
        };
        let first = ChatMessage {
            tool_calls: Some(vec![call.clone()]),
            ..match number {
                0 => messages[at].clone(),
                _ => ChatMessage::of(&messages[at].role),
            }
        };
        read.push(message(&first, at)?);
        read.push(message(&results[result], at + 1 + result)?);
    }
    Ok(at + 1 + results.len())
}

fn message(message: &ChatMessage, at: usize) -> Result<Message, ApiError> {
    let param = format!("messages[{at}]");
    let role = message.role.as_str();
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        return Err(ApiError::of(
            format!("{param}.role"),
            format!("is `{role}`, expected system, developer, user, assistant or tool"),
        ));
    }
    for (name, value) in [
        ("audio", &message.audio),
        ("function_call", &message.function_call),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(ApiError::of(
                format!("{param}.{name}"),
                "is not supported: there are text and tool_calls",
            ));
        }
    }
    let content = match (&message.content, &message.refusal) {
        (Some(content), _) => Some(content.text(&format!("{param}.content"))?),
        (None, Some(refusal)) => Some(refusal.clone()),
        (None, None) => None,
    };
    let calls = message.tool_calls.iter().flatten().enumerate();
    let calls = calls.map(|(number, call)| call.read(&format!("{param}.tool_calls[{number}]")));
    let calls: Vec<ToolCall> = calls.collect::<Result<_, _>>()?;
    let is_assistant = role == "assistant";
    if content.is_none() && !is_assistant {
        return Err(ApiError::of(
            format!("{param}.content"),
            "is missing, expected text",
        ));
    }
    if !calls.is_empty() && !is_assistant {
        return Err(ApiError::of(
            format!("{param}.tool_calls"),
            "only the assistant calls tools",
        ));
    }
    let thinking = message
        .reasoning
        .as_ref()
        .or(message.reasoning_content.as_ref());
    Ok(Message {
        role: role.to_owned(),
        content: content.map_or(Value::Null, Value::from),
        thinking: thinking
            .filter(|text| is_assistant && !text.is_empty())
            .cloned(),
        tool_calls: calls,
        ..Message::default()
    })
}

/// Joins instructions that stand at the beginning of a conversation: the chat template has a place for one message of them.
pub fn instructions_first(messages: Vec<Message>) -> Vec<Message> {
    let is_instruction =
        |message: &Message| message.role == "system" || message.role == "developer";
    let count = messages
        .iter()
        .take_while(|message| is_instruction(message))
        .count();
    if count < 2 {
        return messages;
    }
    let texts: Vec<&str> = messages[..count].iter().filter_map(Message::text).collect();
    let joined = Message::new("developer", texts.join("\n\n"));
    std::iter::once(joined)
        .chain(messages[count..].iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(messages: Value) -> Result<Vec<Message>, String> {
        let messages: Vec<ChatMessage> =
            serde_json::from_value(messages).map_err(|e| e.to_string())?;
        let conversation = conversation(&messages).map_err(|error| error.to_string())?;
        Ok(conversation.messages)
    }

    #[test]
    fn roles_parts_and_reasoning() {
        let found = read(json!([
            {"role": "system", "content": "a"},
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "user", "content": "q", "name": "ann"},
            {"role": "assistant", "content": "x", "reasoning_content": "t"},
            {"role": "user", "content": "r"},
        ]))
        .unwrap();
        assert_eq!(found[0], Message::new("developer", "a\n\nbc"));
        assert_eq!(found[2].thinking.as_deref(), Some("t"));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn calls_stand_before_their_results() {
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{\"x\": 1}"}});
        let found = read(json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "tool_calls": [call("1", "f"), call("2", "g")]},
            {"role": "tool", "tool_call_id": "2", "content": "of g"},
            {"role": "tool", "tool_call_id": "1", "content": "of f"},
            {"role": "user", "content": "r"},
        ]))
        .unwrap();
        let names: Vec<String> = found
            .iter()
            .map(|message| match message.tool_calls.first() {
                Some(call) => call.name.clone(),
                None => message.text().unwrap_or_default().to_owned(),
            })
            .collect();
        assert_eq!(names, ["q", "f", "of f", "g", "of g", "r"]);
        let error = read(json!([
            {"role": "assistant", "tool_calls": [call("1", "f"), call("2", "g")]},
            {"role": "tool", "tool_call_id": "1", "content": "of f"},
        ]))
        .unwrap_err();
        assert!(error.contains("messages[0].tool_calls[1].id"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (messages, says) in [
            (json!([]), "messages: is empty"),
            (
                json!([{"role": "asistant", "content": "x"}]),
                "messages[0].role: is `asistant`",
            ),
            (json!([{"role": "user"}]), "messages[0].content: is missing"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": 1}]),
                "expected text, or a list of parts",
            ),
            (
                json!([{"role": "assistant", "audio": {"id": "a"}}]),
                "messages[0].audio",
            ),
            (
                json!([{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]),
                "only the assistant",
            ),
        ] {
            let error = read(messages.clone()).unwrap_err();
            assert!(error.contains(says), "{messages}: {error}");
        }
    }
}
