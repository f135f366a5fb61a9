//! The reasoning of an answer, under each of the names that APIs and datasets have for it: as a key of
//! a message, or as a column beside an answer.

use super::{
    keys::{KeyPath, has_value, take as take_key},
    row::kind,
};
use apus_sdk::{Error, Result, Row};
use serde_json::{Map, Value};

/// The names, the one that counts by itself first.
pub const NAMES: [&str; 6] = [
    "thinking",
    "reasoning_content",
    "reasoning",
    "thought",
    "thoughts",
    "reasoning_details",
];

/// Keys of a part of `reasoning_details` that describe its text.
const HARMLESS: &[&str] = &["type", "signature", "format", "index", "id"];

/// Takes the reasoning out of a message. Under several names it has to be the same.
///
/// # Errors
/// A value that is no text, or two different texts.
pub fn of_message(fields: &mut Map<String, Value>, at: &KeyPath) -> Result<Option<String>> {
    take(fields, &NAMES, is_flag, at)
}

/// Takes the reasoning of a row's answer. A switch (`on`, `true`) is no reasoning and stays.
pub fn of_row(row: &mut Row, auto: bool, at: &KeyPath) -> Result<Option<String>> {
    let names = if auto { &NAMES[..] } else { &NAMES[..1] };
    let words = ["on", "off", "true", "false", "yes", "no"];
    let is_word = |text: &str| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_switch = |value: &Value| is_flag(value) || value.as_str().is_some_and(is_word);
    take(row, names, is_switch, at)
}

/// Whether the value only tells whether there is reasoning.
fn is_flag(value: &Value) -> bool {
    value.is_boolean() || value.is_number()
}

fn take(
    fields: &mut Map<String, Value>,
    names: &[&str],
    is_switch: impl Fn(&Value) -> bool,
    at: &KeyPath,
) -> Result<Option<String>> {
    let is_one = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let mut found = None::<(&str, String)>;
    let mut hidden = None;
    for (name, value) in fields.iter_mut().filter(|(name, _)| is_one(name)) {
        if value.is_null() || is_switch(value) {
            continue;
        }
        let text = match value.take() {
            Value::String(text) => text,
            Value::Array(parts) => {
                let parts = Parts::read(name, parts, &at.key(name))?;
                if parts.encrypted {
                    hidden = Some(name);
                }
                if parts.text.is_empty() {
                    continue;
                }
                parts.text
            }
            other => {
                return Err(Error::new(format!(
                    "`{name}` must be text, found {}",
                    kind(&other)
                )));
            }
        };
        match &found {
            Some((_, own)) if bare(&text).is_empty() || bare(own) == bare(&text) => {}
            Some((own_name, own)) if !bare(own).is_empty() => {
                return Err(Error::new(format!(
                    "`{own_name}` and `{name}` hold different reasoning; leave one of them out"
                )));
            }
            _ => found = Some((name, text)),
        }
    }
    match (found, hidden) {
        (None, Some(name)) => Err(Error::new(format!(
            "`{name}` holds encrypted reasoning alone, which cannot be read; leave it out to train without it"
        ))),
        (found, _) => Ok(found.map(|(_, text)| text)),
    }
}

/// A text without white space: the same reasoning is cut into lines in several ways.
fn bare(text: &str) -> String {
    text.split_whitespace().collect()
}

/// A list of texts, or of OpenRouter's parts: `{"type": "reasoning.text", "text": ".."}`,
/// `{"type": "reasoning.summary", "summary": ".."}`, `{"type": "reasoning.encrypted", "data": ".."}`.
#[derive(Default)]
struct Parts {
    text: String,
    encrypted: bool,
}

impl Parts {
    fn read(name: &str, parts: Vec<Value>, at: &KeyPath) -> Result<Self> {
        let mut all = Self::default();
        let mut last_index = None;
        for (i, part) in parts
            .into_iter()
            .enumerate()
            .filter(|(_, part)| has_value(part))
        {
            let (text, index) = match part {
                Value::String(text) => (text, None),
                Value::Object(mut fields) => {
                    let text = take_key(&mut fields, &["text", "thinking", "summary"]);
                    let data = take_key(&mut fields, &["data"]).is_some();
                    all.encrypted |= data;
                    // The end of a stream brings no more than a signature.
                    let ends = data || fields.get("signature").is_some_and(has_value);
                    at.item(i).note_rest(&fields, HARMLESS)?;
                    match text {
                        Some(Value::String(text)) => (text, take_key(&mut fields, &["index"])),
                        None if ends => continue,
                        _ => return Err(no_text(name, &Value::Object(fields))),
                    }
                }
                other => return Err(no_text(name, &other)),
            };
            // Pieces of one part, as a stream brought them, have its number.
            if !all.text.is_empty() && (index.is_none() || index != last_index) {
                all.text.push('\n');
            }
            all.text.push_str(&text);
            last_index = index;
        }
        Ok(all)
    }
}

fn no_text(name: &str, part: &Value) -> Error {
    Error::new(format!(
        "an entry of `{name}` must be text or an object with `text` or `summary`, found {part}"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::keys::noting;
    use super::*;
    use serde_json::json;

    fn taken(value: Value) -> Result<Option<String>> {
        taken_of(value, true).map(|(text, _)| text)
    }

    /// The reasoning that was taken, and the rest of the row.
    fn taken_of(value: Value, auto: bool) -> Result<(Option<String>, Value)> {
        let Value::Object(row) = value else {
            panic!("an object")
        };
        let mut taken = None;
        let mut left = Value::Null;
        noting(row, &[], |row, at| {
            taken = of_row(row, auto, at)?;
            left = Value::Object(row.clone());
            Ok(Vec::new())
        })?;
        Ok((taken, left))
    }

    #[test]
    fn every_name_is_read() {
        for name in NAMES {
            let found = taken(json!({name: "r", "content": "a"})).unwrap();
            assert_eq!(found.as_deref(), Some("r"), "{name}");
        }
        let parts = json!([{"type": "reasoning.summary", "summary": "a", "index": 0},
            {"type": "reasoning.text", "text": "b", "index": 1}, {"type": "reasoning.text", "text": "c", "index": 1},
            {"type": "reasoning.encrypted", "data": "x"}, null]);
        let found = taken(json!({"reasoning_details": parts, "reasoning": "a bc"})).unwrap();
        assert_eq!(found.as_deref(), Some("a\nbc"));
        let found = taken(json!({"thoughts": ["a", "b"], "thinking": ""})).unwrap();
        assert_eq!(found.as_deref(), Some("a\nb"));
        assert_eq!(taken(json!({"reasoning": []})).unwrap(), None);
        assert_eq!(taken(json!({"thinking": ""})).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn a_switch_is_no_reasoning() {
        for switch in [json!("on"), json!("Off"), json!(true), json!(1)] {
            let (taken, left) = taken_of(json!({"reasoning": switch}), true).unwrap();
            assert_eq!((taken, &left["reasoning"]), (None, &switch));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let error = |value| taken(value).unwrap_err().to_string();
        let bad = error(json!({"thinking": "a", "reasoning": "b"}));
        assert!(
            bad.contains("`thinking` and `reasoning` hold different"),
            "{bad}"
        );
        let bad = error(json!({"reasoning_details": [{"data": "x"}]}));
        assert!(bad.contains("encrypted reasoning alone"), "{bad}");
        let bad = error(json!({"reasoning_details": [{"id": 1}]}));
        assert!(bad.contains("an entry of `reasoning_details`"), "{bad}");
        let bad = error(json!({"thinking": {"effort": "low"}}));
        assert!(bad.contains("must be text, found an object"), "{bad}");
    }

    #[test]
    fn without_the_mapping_one_name_counts() {
        let row = json!({"reasoning": "r"});
        assert_eq!(taken_of(row.clone(), false).unwrap(), (None, row));
    }
}
