//! Tools that a request offers, and which of them the answer has to call.

use super::request::{RESPONSE_FORMAT, Schema};
use crate::serve::http::ApiError;
use crate::serve::server::random_id;
use apus_data::chat::dialect::AnswerShape;
use serde_json::{Value, json};

/// The most tools, as OpenAI's.
const MOST: usize = 128;

/// Which tools the answer calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    Never,
    /// As the model likes.
    Auto,
    /// Any of them, but one in any case.
    Required,
    /// The one of this name.
    Named(String),
}

impl ToolChoice {
    /// Reads `tool_choice`.
    ///
    /// # Errors
    /// Another word or object.
    pub fn read(value: Option<&Value>) -> Result<Self, ApiError> {
        let named = |value: &Value| {
            let holder = value.get("function").unwrap_or(value);
            holder
                .get("name")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        match value {
            None | Some(Value::Null) => Ok(Self::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => Ok(Self::Never),
                "auto" => Ok(Self::Auto),
                "required" => Ok(Self::Required),
                other => Err(ApiError::of(
                    "tool_choice",
                    format!("is `{other}`, expected none, auto, required or a function"),
                )),
            },
            Some(value) if value.get("type").and_then(Value::as_str) == Some("function") => {
                named(value)
                    .map(Self::Named)
                    .ok_or_else(|| ApiError::of("tool_choice", "names no function"))
            }
            Some(other) => Err(ApiError::of(
                "tool_choice",
                format!("{other} is not supported, expected none, auto, required or a function"),
            )),
        }
    }
}

/// The functions of a request in the form `{"type": "function", "function": {..}}`; a response's have the function's fields a level
/// higher.
///
/// # Errors
/// A tool that is no function, or that has no name that can be called.
pub fn tools(tools: &[Value]) -> Result<Vec<Value>, ApiError> {
    if tools.len() > MOST {
        return Err(ApiError::of(
            "tools",
            format!("{} tools, expected at most {MOST}", tools.len()),
        ));
    }
    let mut names: Vec<&str> = Vec::new();
    let mut read = Vec::with_capacity(tools.len());
    for (at, tool) in tools.iter().enumerate() {
        let param = format!("tools[{at}]");
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => {}
            other => {
                let other = other.unwrap_or("missing");
                return Err(ApiError::of(
                    format!("{param}.type"),
                    format!("is {other}, expected function: the server runs no tools of its own"),
                ));
            }
        }
        let function = tool.get("function").unwrap_or(tool);
        let name = function
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        // It becomes part of a header, where a blank or a control token would mean something else.
        let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_letter) {
            return Err(ApiError::of(
                format!("{param}.name"),
                format!("is {name:?}, expected 1 to 64 letters, digits, _ or -"),
            ));
        }
        if names.contains(&name) {
            return Err(ApiError::of(
                format!("{param}.name"),
                format!("`{name}` is there twice"),
            ));
        }
        names.push(name);
        match function.get("parameters") {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(other) => {
                return Err(ApiError::of(
                    format!("{param}.parameters"),
                    format!("is {other}, expected a JSON schema"),
                ));
            }
        }
        let mut function = function.clone();
        if let Value::Object(fields) = &mut function {
            fields.remove("type");
        }
        read.push(json!({"type": "function", "function": function}));
    }
    Ok(read)
}

/// What the answer is held to, and the field that asks for it. Without a schema, a choice or a tool that is `strict` the model
/// answers freely.
///
/// # Errors
/// A choice of a tool that is not there.
pub fn shape(
    schema: Option<Schema>,
    tools: &[Value],
    choice: &ToolChoice,
) -> Result<Option<(AnswerShape, &'static str)>, ApiError> {
    let call = |tool: &Value| {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        let parameters = function
            .get("parameters")
            .filter(|schema| !schema.is_null());
        (
            name,
            parameters
                .cloned()
                .unwrap_or_else(|| json!({"type": "object"})),
        )
    };
    let mut calls: Vec<(String, Value)> = tools.iter().map(call).collect();
    let is_strict = tools
        .iter()
        .any(|tool| tool["function"]["strict"] == json!(true));
    let (must_call, param) = match choice {
        ToolChoice::Never => {
            calls.clear();
            (false, RESPONSE_FORMAT)
        }
        ToolChoice::Auto if schema.is_some() => (false, RESPONSE_FORMAT),
        ToolChoice::Auto => (false, "tools"),
        ToolChoice::Required => (true, "tool_choice"),
        ToolChoice::Named(name) => {
            calls.retain(|(known, _)| known == name);
            (true, "tool_choice")
        }
    };
    if must_call && calls.is_empty() {
        return Err(ApiError::of(
            "tool_choice",
            "asks for a function that is not among the tools",
        ));
    }
    if schema.is_none() && !must_call && (!is_strict || calls.is_empty()) {
        return Ok(None);
    }
    let shape = AnswerShape {
        schema: schema.map(|schema| schema.0),
        calls,
        must_call,
    };
    Ok(Some((shape, param)))
}

/// A new id of a call.
pub fn call_id() -> String {
    format!("call_{}", random_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    #[test]
    fn tools_are_functions_with_names() {
        let flat = json!({"type": "function", "name": "f", "description": "d", "strict": true});
        let read = tools(&[tool("a_b-1"), flat]).unwrap();
        assert_eq!(
            read[1],
            json!({"type": "function", "function": {"name": "f", "description": "d", "strict": true}})
        );
        for (bad, says) in [
            (json!({"type": "web_search"}), "tools[0].type"),
            (tool(""), "1 to 64 letters"),
            (tool("a b"), "1 to 64 letters"),
            (tool("a<|message|>"), "1 to 64 letters"),
            (
                json!({"type": "function", "function": {"name": "f", "parameters": 1}}),
                "parameters",
            ),
            (json!(1), "tools[0].type"),
        ] {
            let error = tools(std::slice::from_ref(&bad)).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
        assert!(
            tools(&[tool("f"), tool("f")])
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }

    #[test]
    fn the_choice_says_what_the_answer_is_held_to() {
        let all = [tool("f"), tool("g")];
        let held = |schema: bool, choice: Value| {
            let schema = schema.then(|| Schema(json!({"type": "object"})));
            shape(schema, &all, &ToolChoice::read(Some(&choice))?)
        };
        assert_eq!(held(false, json!("auto")).unwrap(), None);
        assert_eq!(held(false, json!("none")).unwrap(), None);
        let (any, _) = held(false, json!("required")).unwrap().unwrap();
        assert!(any.must_call && any.calls.len() == 2);
        let named = json!({"type": "function", "function": {"name": "g"}});
        let (one, param) = held(false, named).unwrap().unwrap();
        assert_eq!(
            (one.calls.len(), one.calls[0].0.as_str(), param),
            (1, "g", "tool_choice")
        );
        let (both, _) = held(true, json!(null)).unwrap().unwrap();
        assert!(!both.must_call && both.calls.len() == 2 && both.schema.is_some());
        let (text, _) = held(true, json!("none")).unwrap().unwrap();
        assert!(text.calls.is_empty());
        for bad in [
            json!("always"),
            json!({"type": "function", "name": "h"}),
            json!({"type": "allowed_tools"}),
            json!(1),
        ] {
            assert!(held(false, bad.clone()).is_err(), "{bad}");
        }
    }
}
