//! The settings of a conversation beside its messages: tools, reasoning effort, the identity of the model and the
//! date. They stand in columns of the row, or in the typed system and developer messages of
//! openai-harmony's JSON.

use super::{
    keys::{KeyPath, first, has_value, take},
    row::{self, kind, list},
    tools::tool,
};
use apus_sdk::{Error, Result, Row};
use serde_json::{Map, Value, json};

/// The columns that hold the tools.
const TOOLS: [&str; 4] = ["tools", "functions", "tool_defs", "tool_definitions"];
const EFFORTS: [&str; 3] = ["low", "medium", "high"];
/// The knowledge cutoff that the renderers always write.
const CUTOFF: &str = "2024-06";
/// The channels that the renderers always write.
const CHANNELS: [&str; 3] = ["analysis", "commentary", "final"];

/// The content of a message of the system or the developer.
#[derive(Debug, PartialEq)]
pub enum Typed {
    /// It has no type of openai-harmony's.
    Other(Value),
    /// It has one, and was read; the instructions in it.
    Read(Option<String>),
}

/// The setting, and where in the row each part of it stands.
#[derive(Debug, Default)]
pub struct Setting {
    tools: Option<(String, Vec<Value>)>,
    kwargs: Map<String, Value>,
    places: Vec<(String, String)>,
}

impl Setting {
    /// Tool definitions and variables of the template, with those of the row's columns.
    ///
    /// # Errors
    /// A column of the wrong type, or two places that contradict each other.
    pub fn with_columns(
        mut self,
        row: &mut Row,
        auto: bool,
        at: &KeyPath,
    ) -> Result<(Vec<Value>, Map<String, Value>)> {
        let names = if auto { &TOOLS[..] } else { &TOOLS[..1] };
        while let Some((name, value)) = first(row, names) {
            let place = format!("column `{name}`");
            self.tools(&place, list(name, value)?, &at.key(name))?;
        }
        let place = "column `chat_template_kwargs`";
        let kwargs = match take(row, &["chat_template_kwargs"]) {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(Value::String(text)) => {
                row::read(&text).map_err(|error| Error::new(format!("{place}: {error}")))?
            }
            Some(other) => {
                return Err(Error::new(format!(
                    "{place} must be an object, found {}",
                    kind(&other)
                )));
            }
        };
        // Tables have a null where a row has no such variable.
        for (name, value) in kwargs.into_iter().filter(|(_, value)| !value.is_null()) {
            self.set(&name, value, place)?;
        }
        if let Some(value) = take(row, &["reasoning_effort"]) {
            self.effort(value, "column `reasoning_effort`")?;
        }
        Ok((self.tools.unwrap_or_default().1, self.kwargs))
    }

    fn set(&mut self, name: &str, value: Value, place: &str) -> Result<()> {
        match self.kwargs.get(name) {
            Some(old) if *old != value => {
                let other = self.places.iter().find(|(known, _)| known == name);
                Err(Error::new(format!(
                    "`{name}` is {old} in {} and {value} in {place}; leave one of them out",
                    other.map_or("another place", |(_, place)| place)
                )))
            }
            _ => {
                self.places.push((name.to_owned(), place.to_owned()));
                self.kwargs.insert(name.to_owned(), value);
                Ok(())
            }
        }
    }

    fn effort(&mut self, value: Value, place: &str) -> Result<()> {
        let known = value.as_str().map(str::to_ascii_lowercase);
        match known.filter(|effort| EFFORTS.contains(&effort.as_str())) {
            Some(effort) => self.set("reasoning_effort", effort.into(), place),
            None if !has_value(&value) => Ok(()),
            None => Err(Error::new(format!(
                "{place} must be {}, found {value}",
                EFFORTS.join(", ")
            ))),
        }
    }

    /// Adds tool definitions. Where they stand twice they have to be the same.
    fn tools(&mut self, place: &str, tools: Vec<Value>, at: &KeyPath) -> Result<()> {
        let tools = tools.into_iter().enumerate();
        let tools = tools.map(|(i, value)| {
            let number = |error| Error::new(format!("{place}, entry {}: {error}", i + 1));
            tool(value, &at.item(i)).map_err(number)
        });
        let tools = tools.collect::<Result<Vec<_>>>()?;
        match &self.tools {
            _ if tools.is_empty() => Ok(()),
            Some((other, known)) if *known != tools => Err(Error::new(format!(
                "{other} and {place} define different tools; leave one of them out"
            ))),
            _ => {
                self.tools = Some((place.to_owned(), tools));
                Ok(())
            }
        }
    }

    /// Reads a content of openai-harmony's types.
    ///
    /// # Errors
    /// A setting that the renderers cannot write.
    pub fn typed(&mut self, content: Value, at: &KeyPath) -> Result<Typed> {
        let kind = |block: &Value| block.get("type").and_then(Value::as_str).map(str::to_owned);
        let is_typed = |block: &Value| {
            kind(block).is_some_and(|kind| kind == "system_content" || kind == "developer_content")
        };
        let Value::Array(blocks) = content else {
            return Ok(Typed::Other(content));
        };
        if !blocks.iter().any(is_typed) {
            return Ok(Typed::Other(Value::Array(blocks)));
        }
        let mut instructions = None;
        for (i, block) in blocks.into_iter().enumerate() {
            let at = at.item(i);
            let Value::Object(mut fields) = block else {
                return Err(Error::new(format!(
                    "a block of content is {block}, expected an object"
                )));
            };
            match take(&mut fields, &["type"]) {
                Some(kind) if kind == "system_content" => self.system_content(&mut fields)?,
                Some(kind) if kind == "developer_content" && instructions.is_none() => {
                    instructions = self.developer_content(&mut fields, &at)?;
                }
                other => {
                    return Err(Error::new(format!(
                        "a block of type {} beside one of type `system_content` or `developer_content`, which \
                         the renderers cannot write",
                        other.unwrap_or_default()
                    )));
                }
            }
            at.note_rest(&fields, &[])?;
        }
        Ok(Typed::Read(instructions))
    }

    fn system_content(&mut self, fields: &mut Map<String, Value>) -> Result<()> {
        let place = "the system message";
        if let Some(identity) = take(fields, &["model_identity"]) {
            self.set("model_identity", identity, place)?;
        }
        if let Some(effort) = take(fields, &["reasoning_effort"]) {
            self.effort(effort, "`reasoning_effort` of the system message")?;
        }
        if let Some(date) = take(fields, &["conversation_start_date"]) {
            self.set("current_date", date, place)?;
        }
        match take(fields, &["knowledge_cutoff"]) {
            None => {}
            Some(cutoff) if cutoff == CUTOFF => {}
            Some(other) => {
                return Err(Error::new(format!(
                    "`knowledge_cutoff` is {other}, but the renderers always say {CUTOFF}; leave it out"
                )));
            }
        }
        if let Some(config) = take(fields, &["channel_config"])
            && config != json!({"valid_channels": CHANNELS, "channel_required": true})
        {
            return Err(Error::new(format!(
                "`channel_config` is {config}, but the renderers always ask for {}; leave it out",
                CHANNELS.join(", ")
            )));
        }
        match take(fields, &["tools"]) {
            Some(tools) if has_value(&tools) => Err(Error::new(
                "`tools` of the system message are built-in ones, whose calls cannot be trained; functions \
                 are tools of the developer message",
            )),
            _ => Ok(()),
        }
    }

    /// Gives back the instructions.
    fn developer_content(
        &mut self,
        fields: &mut Map<String, Value>,
        at: &KeyPath,
    ) -> Result<Option<String>> {
        let instructions = match take(fields, &["instructions"]) {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                return Err(Error::new(format!(
                    "`instructions` must be text, found {}",
                    kind(&other)
                )));
            }
        };
        let spaces = match take(fields, &["tools"]) {
            None => Map::new(),
            Some(Value::Object(spaces)) => spaces,
            Some(other) => {
                return Err(Error::new(format!(
                    "`tools` of the developer message must be an object of namespaces, found {}",
                    kind(&other)
                )));
            }
        };
        for (name, space) in spaces.into_iter().filter(|(_, space)| has_value(space)) {
            let described = space.get("description").is_some_and(has_value);
            if name != "functions" || described {
                return Err(Error::new(format!(
                    "`tools` of the developer message has the namespace `{name}`{}; the renderers write one, \
                     `functions`, without a description",
                    if described { " with a description" } else { "" }
                )));
            }
            let at = at.key("tools");
            let at = at.key(&name);
            let Value::Object(mut space) = space else {
                return Err(Error::new(format!(
                    "the namespace `{name}` is {space}, expected an object"
                )));
            };
            take(&mut space, &["name"]);
            let tools = take(&mut space, &["tools"]).unwrap_or_default();
            at.note_rest(&space, &[])?;
            self.tools(
                "the developer message",
                list("tools", tools)?,
                &at.key("tools"),
            )?;
        }
        Ok(instructions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{messages::Messages, query_response::QueryResponse, row::tests::convert};
    use super::*;

    fn row(columns: Value) -> Value {
        let mut row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
        for (key, value) in columns.as_object().unwrap() {
            row[key] = value.clone();
        }
        row
    }

    #[test]
    fn tools_under_every_name() {
        let tool = json!([{"name": "f", "description": "d"}]);
        for name in TOOLS {
            let found = convert(&Messages::default(), row(json!({name: tool}))).unwrap();
            assert_eq!(found.tools[0]["function"]["name"], "f", "{name}");
            let found = convert(
                &QueryResponse::default(),
                json!({"query": "q", name: tool.to_string()}),
            );
            assert_eq!(found.unwrap().tools.len(), 1, "{name}");
        }
        let both = row(json!({"tools": tool, "functions": tool}));
        assert_eq!(convert(&Messages::default(), both).unwrap().tools.len(), 1);
        let both = row(json!({"tools": tool, "functions": [{"name": "g", "description": "d"}]}));
        let bad = convert(&Messages::default(), both).unwrap_err().to_string();
        assert!(
            bad.contains("column `tools` and column `functions` define different"),
            "{bad}"
        );
    }

    #[test]
    fn the_effort_of_a_row() {
        let effort =
            |columns| convert(&Messages::default(), row(columns)).map(|c| c.template_kwargs);
        let found = effort(json!({"reasoning_effort": "High"})).unwrap();
        assert_eq!(found["reasoning_effort"], "high");
        let same =
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "low"}});
        assert!(effort(same).is_ok());
        let other = json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}});
        let bad = effort(other).unwrap_err().to_string();
        assert!(
            bad.contains("is \"high\" in column `chat_template_kwargs`"),
            "{bad}"
        );
        let bad = effort(json!({"reasoning_effort": "most"}))
            .unwrap_err()
            .to_string();
        assert!(
            bad.contains("must be low, medium, high, found \"most\""),
            "{bad}"
        );
        assert!(effort(json!({"reasoning_effort": ""})).unwrap().is_empty());
        for kwargs in [
            json!({"reasoning_effort": null}),
            json!(r#"{"reasoning_effort": null}"#),
        ] {
            let column = json!({"reasoning_effort": "low", "chat_template_kwargs": kwargs});
            assert_eq!(effort(column).unwrap()["reasoning_effort"], "low");
            assert!(
                effort(json!({"chat_template_kwargs": kwargs}))
                    .unwrap()
                    .is_empty()
            );
        }
    }

    fn harmony(content: Value) -> Result<apus_sdk::Conversation> {
        let role = if content["type"] == "system_content" {
            "system"
        } else {
            "developer"
        };
        convert(
            &Messages::default(),
            json!({"messages": [{"role": role, "name": null, "content": [content]},
                {"role": "user", "content": [{"type": "text", "text": "q"}]}]}),
        )
    }

    #[test]
    fn the_system_message_of_openai_harmony() {
        let content = json!({"type": "system_content", "model_identity": "I", "reasoning_effort": "High",
            "conversation_start_date": "2025-06-28", "knowledge_cutoff": "2024-06",
            "channel_config": {"valid_channels": CHANNELS, "channel_required": true}});
        let found = harmony(content).unwrap();
        assert_eq!(found.messages.len(), 1);
        let expected = json!({"model_identity": "I", "reasoning_effort": "high", "current_date": "2025-06-28"});
        assert_eq!(Value::Object(found.template_kwargs), expected);
        for (key, value) in [
            ("knowledge_cutoff", json!("2023-01")),
            (
                "channel_config",
                json!({"valid_channels": ["final"], "channel_required": true}),
            ),
            ("tools", json!({"python": {"name": "python", "tools": []}})),
        ] {
            let bad = harmony(json!({"type": "system_content", key: value})).unwrap_err();
            assert!(bad.to_string().contains(key), "{bad}");
        }
    }

    #[test]
    fn the_developer_message_of_openai_harmony() {
        let space = |name: &str| {
            json!({"type": "developer_content", "instructions": "D", "tools":
                {name: {"name": name, "tools": [{"name": "f", "description": "d", "parameters": {"type": "object"}}]}}})
        };
        let found = harmony(space("functions")).unwrap();
        assert_eq!(
            (found.messages[0].role.as_str(), found.messages[0].text()),
            ("developer", Some("D"))
        );
        assert_eq!(found.tools[0]["function"]["name"], "f");
        let bad = harmony(space("browser")).unwrap_err().to_string();
        assert!(bad.contains("namespace `browser`"), "{bad}");
        let found = harmony(json!({"type": "developer_content", "instructions": null})).unwrap();
        assert_eq!(found.messages[0].role, "user");
    }
}
