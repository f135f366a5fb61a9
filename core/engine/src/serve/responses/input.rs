//! From the items of a response's input to a conversation.

use crate::serve::chat::{Call, ChatMessage, Content, Function, conversation as of_messages};
use crate::serve::http::ApiError;
use apus_sdk::Conversation;
use serde::Deserialize;
use serde_json::Value;

/// A text of the user, or items.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected text, or a list of items")]
pub enum Input {
    /// A text.
    Text(String),
    /// Items.
    Items(Vec<Item>),
}

/// A message, reasoning, a call of a tool or its result.
#[derive(Debug, Clone, Deserialize)]
pub struct Item {
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    content: Option<Content>,
    summary: Option<Content>,
    name: Option<String>,
    arguments: Option<String>,
    call_id: Option<String>,
    output: Option<Content>,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "encrypted_content")]
    _encrypted_content: Option<Value>,
}

/// The conversation.
///
/// # Errors
/// An item that cannot be meant; the error names it.
pub fn conversation(input: &Input, instructions: Option<&str>) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(said("developer", Content::Text(instructions.to_owned())));
    }
    match input {
        Input::Text(text) => messages.push(said("user", Content::Text(text.clone()))),
        Input::Items(items) => {
            let mut reasoning = None;
            for (at, item) in items.iter().enumerate() {
                read(item, &format!("input[{at}]"), &mut messages, &mut reasoning)?;
            }
            if let Some(text) = reasoning {
                let mut last = ChatMessage::of("assistant");
                last.reasoning = Some(text);
                messages.push(last);
            }
        }
    }
    if messages.iter().all(|message| message.role == "developer") {
        return Err(ApiError::of("input", "is empty, expected a message"));
    }
    of_messages(&messages)
}

fn said(role: &str, content: Content) -> ChatMessage {
    ChatMessage {
        content: Some(content),
        ..ChatMessage::of(role)
    }
}

/// Adds an item. Reasoning belongs to the answer or call after it.
fn read(
    item: &Item,
    param: &str,
    messages: &mut Vec<ChatMessage>,
    reasoning: &mut Option<String>,
) -> Result<(), ApiError> {
    let missing = |name: &str| ApiError::of(format!("{param}.{name}"), "is missing");
    match item.kind.as_deref().unwrap_or("message") {
        "message" => {
            let role = item.role.as_deref().ok_or_else(|| missing("role"))?;
            let content = item.content.clone().ok_or_else(|| missing("content"))?;
            let content = Content::Text(content.text(&format!("{param}.content"))?);
            let mut message = said(role, content);
            if role == "assistant" {
                message.reasoning = reasoning.take();
            }
            messages.push(message);
        }
        "reasoning" => {
            let text = match (&item.content, &item.summary) {
                (Some(content), _) => content.text(&format!("{param}.content"))?,
                (None, Some(summary)) => summary.text(&format!("{param}.summary"))?,
                (None, None) => String::new(),
            };
            if !text.is_empty() {
                *reasoning = Some(text);
            }
        }
        "function_call" => {
            let call = Call {
                id: item.call_id.clone(),
                kind: None,
                function: Function {
                    name: item.name.clone().ok_or_else(|| missing("name"))?,
                    arguments: item.arguments.clone(),
                },
            };
            match messages.last_mut() {
                // Calls that were made at once.
                Some(last)
                    if last.role == "assistant"
                        && last.tool_calls.is_some()
                        && reasoning.is_none() =>
                {
                    last.tool_calls.get_or_insert_default().push(call);
                }
                _ => messages.push(ChatMessage {
                    reasoning: reasoning.take(),
                    tool_calls: Some(vec![call]),
                    ..ChatMessage::of("assistant")
                }),
            }
        }
        "function_call_output" => {
            let output = item.output.clone().ok_or_else(|| missing("output"))?;
            messages.push(ChatMessage {
                tool_call_id: item.call_id.clone(),
                ..said(
                    "tool",
                    Content::Text(output.text(&format!("{param}.output"))?),
                )
            });
        }
        other => {
            return Err(ApiError::of(
                format!("{param}.type"),
                format!(
                    "is {other}, expected message, reasoning, function_call or function_call_output"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(input: Value) -> Result<Vec<(String, String)>, String> {
        let input: Input = serde_json::from_value(input).map_err(|error| error.to_string())?;
        let conversation =
            conversation(&input, Some("be kind")).map_err(|error| error.to_string())?;
        let line = |message: &apus_sdk::Message| {
            let calls: Vec<&str> = message
                .tool_calls
                .iter()
                .map(|call| call.name.as_str())
                .collect();
            let thinking = message.thinking.clone().unwrap_or_default();
            (
                message.role.clone(),
                format!(
                    "{thinking}|{}|{}",
                    message.text().unwrap_or_default(),
                    calls.join(" ")
                ),
            )
        };
        Ok(conversation.messages.iter().map(line).collect())
    }

    #[test]
    fn items_are_messages() {
        let found = read(json!([
            {"role": "system", "content": "s"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "of f"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "of g"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            {"role": "user", "content": "r"},
        ]))
        .unwrap();
        let found: Vec<String> = found
            .into_iter()
            .map(|(role, text)| format!("{role} {text}"))
            .collect();
        let expected = [
            "developer |be kind\n\ns|",
            "user |q|",
            "assistant t||f",
            "tool |of f|",
            "assistant ||g",
            "tool |of g|",
            "assistant |a|",
            "user |r|",
        ];
        assert_eq!(found, expected);
        assert_eq!(read(json!("hello")).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (input, says) in [
            (json!([]), "input: is empty"),
            (
                json!([{"type": "item_reference", "id": "x"}]),
                "input[0].type: is item_reference",
            ),
            (
                json!([{"type": "message", "role": "user", "content": [{"type": "input_image"}]}]),
                "input[0].content[0].type",
            ),
            (
                json!([{"type": "function_call", "call_id": "1"}]),
                "input[0].name: is missing",
            ),
            (json!(5), "expected text, or a list of items"),
        ] {
            let error = read(input.clone()).unwrap_err();
            assert!(error.contains(says), "{input}: {error}");
        }
    }
}
