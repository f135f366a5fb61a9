//! The closed world of a row: each of its keys that has a value is read, known to change nothing, a mark of
//! what is trained, or noted.
//!
//! The code that reads a key takes it out of its object, and in the end gives the rest of the object to
//! [`KeyPath::note_rest`]. So the name of a key stands where it is read, and in no list beside it.

use super::marks;
use apus_sdk::{Converted, Error, Result, Row, Sample, Unread};
use serde_json::{Map, Value};
use std::cell::RefCell;

/// Columns that say which row it is and where it comes from.
const OF_ROWS: &[&str] = &[
    "id",
    "_id",
    "idx",
    "index",
    "uid",
    "uuid",
    "row_id",
    "conversation_id",
    "prompt_id",
    "__index_level_0__",
    "name",
    "source",
    "dataset",
    "split",
    "url",
    "license",
    "language",
    "lang",
    "timestamp",
    "created",
    "created_at",
    "meta",
    "metadata",
];

/// The path of keys and items to a value of a row, with the notes on what of the row is not read.
pub struct KeyPath<'a> {
    parent: Option<&'a KeyPath<'a>>,
    part: PathPart<'a>,
    unread: &'a RefCell<Vec<Unread>>,
}

#[derive(Clone, Copy)]
enum PathPart<'a> {
    Row,
    Key(&'a str),
    Item(usize),
}

/// Reads a row and notes what is left of it. `harmless` are columns that are known besides those of any row.
pub fn noting(
    mut row: Row,
    harmless: &[&str],
    read: impl FnOnce(&mut Row, &KeyPath) -> Result<Vec<Sample>>,
) -> Result<Converted> {
    let unread = RefCell::default();
    let at = KeyPath {
        parent: None,
        part: PathPart::Row,
        unread: &unread,
    };
    let samples = read(&mut row, &at)?;
    at.note_rest(&row, &[OF_ROWS, harmless].concat())?;
    Ok(Converted {
        samples,
        unread: Some(unread.into_inner()),
    })
}

impl<'a> KeyPath<'a> {
    /// The value of a key of this object.
    pub fn key(&'a self, name: &'a str) -> KeyPath<'a> {
        self.child(PathPart::Key(name))
    }

    /// An item of this list, from 0.
    pub fn item(&'a self, index: usize) -> KeyPath<'a> {
        self.child(PathPart::Item(index))
    }

    fn child(&'a self, part: PathPart<'a>) -> KeyPath<'a> {
        KeyPath {
            parent: Some(self),
            part,
            unread: self.unread,
        }
    }

    /// Notes the keys that were not taken out of this object and have a value. `harmless` are
    /// names that are known here and change nothing.
    ///
    /// # Errors
    /// A mark of what is trained: it was not read, so it cannot be obeyed.
    pub fn note_rest(&self, fields: &Map<String, Value>, harmless: &[&str]) -> Result<()> {
        for (name, _) in fields.iter().filter(|(_, value)| has_value(value)) {
            if marks::NAMES.contains(&name.as_str()) {
                return Err(Error::new(format!(
                    "`{}` says what is trained, but cannot be obeyed there: such a mark belongs to a message \
                     or to the row",
                    self.key(name).path()
                )));
            }
            self.note(name, harmless.contains(&name.as_str()));
        }
        Ok(())
    }

    /// Notes one key of this object.
    pub fn note(&self, name: &str, harmless: bool) {
        self.key(name).note_all(harmless);
    }

    /// Notes this value as a whole.
    pub fn note_all(&self, harmless: bool) {
        let path = self.path();
        self.unread.borrow_mut().push(Unread { path, harmless });
    }

    fn path(&self) -> String {
        let before = self.parent.map(KeyPath::path).unwrap_or_default();
        match self.part {
            PathPart::Row => before,
            PathPart::Key(name) if before.is_empty() => name.to_owned(),
            PathPart::Key(name) => format!("{before}.{name}"),
            PathPart::Item(index) => format!("{before}[{index}]"),
        }
    }
}

/// Whether a value holds anything that could be lost. Null, empty text and lists or objects of these are how tables
/// write that there is nothing.
pub fn has_value(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(has_value),
        Value::Object(fields) => fields.values().any(has_value),
    }
}

/// Takes the first of these keys whose value is not null, with its name.
pub fn first<'a>(fields: &mut Map<String, Value>, names: &[&'a str]) -> Option<(&'a str, Value)> {
    let is_given = |name: &&&str| fields.get(**name).is_some_and(|value| !value.is_null());
    let name = names.iter().find(is_given)?;
    Some((name, fields.get_mut(*name)?.take()))
}

/// Takes the value of the first of these keys that is not null.
pub fn take(fields: &mut Map<String, Value>, names: &[&str]) -> Option<Value> {
    first(fields, names).map(|(_, value)| value)
}

/// Takes a key whose value is as it has to be; another value stays where it is.
pub fn take_if(
    fields: &mut Map<String, Value>,
    name: &str,
    fits: impl FnOnce(&Value) -> bool,
) -> Option<Value> {
    let value = fields.get_mut(name).filter(|value| fits(value))?;
    Some(value.take())
}

/// Takes text; anything else stays where it is.
pub fn take_text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match take_if(fields, name, Value::is_string)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Takes an id, which some datasets write as a number.
pub fn take_id(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match take_if(fields, name, |id| id.is_string() || id.is_number())? {
        Value::String(id) => Some(id),
        id => Some(id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{alpaca::Alpaca, messages::Messages, query_response::QueryResponse};
    use super::*;
    use apus_sdk::DatasetFormat;
    use serde_json::json;

    /// What is left of a row: names that are not used, and harmless ones.
    fn unread(format: &dyn DatasetFormat, row: Value) -> (Vec<String>, Vec<String>) {
        let Value::Object(row) = row else {
            panic!("a row is an object")
        };
        let unread = format.convert_noting(row).unwrap().unread.unwrap();
        let (known, unused): (Vec<_>, Vec<_>) =
            unread.into_iter().partition(|unread| unread.harmless);
        let paths = |unread: Vec<Unread>| unread.into_iter().map(|unread| unread.path).collect();
        (paths(unused), paths(known))
    }

    #[test]
    fn what_is_not_read_is_left_wherever_it_stands() {
        let row = json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "q", "lang": "en"}], "name": "Ann", "mood": "bad",
             "thinking": "t"},
            {"role": "assistant", "content": "a", "tool_calls": [
                {"id": "1", "type": "function", "index": 0, "extra": 1,
                 "function": {"name": "f", "arguments": {"any": 1}, "output": "o"}}],
             "none": null, "empty": [], "nothing": {"a": null, "b": ""}},
            {"role": "tool", "content": {"any": {"thing": 1}}, "tool_call_id": "1"},
         ],
         "tools": [{"type": "function", "cached": true,
                    "function": {"name": "f", "parameters": {"type": "object"}, "return": {"type": "string"}}}],
         "conversations": [{"from": "human", "value": "q"}], "difficulty": 0, "id": 7, "source": "web",
         "chat_template_kwargs": {"reasoning_effort": "low"}, "images": []});
        let (unused, known) = unread(&Messages::default(), row);
        assert_eq!(
            unused,
            [
                "messages[0].content[0].lang",
                "messages[0].mood",
                "messages[0].thinking",
                "messages[1].tool_calls[0].function.output",
                "messages[1].tool_calls[0].extra",
                "tools[0].function.return",
                "tools[0].cached",
                "conversations",
                "difficulty",
            ]
        );
        assert_eq!(
            known,
            [
                "messages[0].name",
                "messages[1].tool_calls[0].index",
                "id",
                "source"
            ]
        );
    }

    #[test]
    fn columns_that_have_no_place_are_left() {
        let row = json!({"query": "q", "prompt": "p", "response": "r", "answer": "a", "responses": ["x"]});
        let (unused, _) = unread(&QueryResponse::default(), row);
        assert_eq!(unused, ["prompt", "answer", "responses"]);
        let row =
            json!({"instruction": "i", "input": "", "output": "o", "text": "i o", "history": []});
        assert_eq!(unread(&Alpaca::default(), row).0, ["text"]);
        let row = json!({"query": "q", "answers": ["a", "b"]});
        assert_eq!(unread(&QueryResponse::default(), row).0, ["answers[1]"]);
        let messages =
            json!([{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]);
        let row = json!({"messages": messages, "system": "another"});
        assert_eq!(unread(&Messages::default(), row).0, ["system"]);
    }

    #[test]
    fn a_mark_that_has_a_question_trained_is_named() {
        let row = json!({"messages": [
            {"role": "user", "content": "q", "loss": true},
            {"role": "assistant", "content": "a", "loss": true},
            {"role": "user", "content": "q", "loss": false}]});
        assert_eq!(
            unread(&Messages::default(), row).0,
            ["messages[0].loss: true (user)"]
        );
    }
}
