//! Converts options to the types that a component describes.
//!
//! A command line has only words, so a value may be of a simpler type than the component reads. A single number
//! becomes a list where the component reads a list, and a text where it reads a text.

use anyhow::{Result, bail};
use apus_sdk::{OptionDoc, Options};
use serde_json::Value;

/// The options with the types that the component reads. An option that it does not describe is not changed.
///
/// # Errors
/// A value of another type; the error names the option.
pub(super) fn coerce(options: &Options, docs: &[OptionDoc]) -> Result<Options> {
    let coerced = options.iter().map(|(name, value)| {
        let doc = docs.iter().find(|doc| doc.name == *name);
        let kind = doc.map_or("", |doc| doc.kind.as_str());
        let a = match kind.starts_with("t") {
            true => "",
            false => "a ",
        };
        match typed(kind, value) {
            Some(value) => Ok((name.clone(), value)),
            None if crate::secrets::is_secret(name) => {
                bail!("option {name}: expected {a}{kind}, found something else, which is not shown")
            }
            None => bail!("option {name}: expected {a}{kind}, found {value}"),
        }
    });
    coerced.collect()
}

/// The value converted to this type, which is named as in [`OptionDoc::kind`]. A type of the component's own is not
/// checked.
fn typed(kind: &str, value: &Value) -> Option<Value> {
    let may_be_none = kind.ends_with(" or none");
    if may_be_none && value.is_null() {
        return Some(Value::Null);
    }
    // Whether the list or its items may be none, the description does not tell.
    if let Some(kind) = kind.strip_prefix("list of ") {
        return match value {
            Value::Array(items) => items.iter().map(|item| typed(kind, item)).collect(),
            one => Some(Value::Array(vec![typed(kind, one)?])),
        };
    }
    let kind = kind.strip_suffix(" or none").unwrap_or(kind);
    let fits = match kind {
        "number" => value.is_number(),
        "whole number" => value.is_i64() || value.is_u64(),
        "true or false" => value.is_boolean(),
        "text" | "path" => match value {
            Value::Number(_) | Value::Bool(_) => return Some(Value::String(value.to_string())),
            value => value.is_string(),
        },
        _ => true,
    };
    fits.then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_by_type() {
        for (kind, value, expected) in [
            ("number", json!(1), Some(json!(1))),
            ("number", json!("1"), None),
            ("whole number", json!(1.5), None),
            ("whole number or none", json!(null), Some(json!(null))),
            ("list of whole number", json!(200002), Some(json!([200002]))),
            ("list of whole number", json!([1, "a"]), None),
            (
                "list of text",
                json!([1, "a", true]),
                Some(json!(["1", "a", "true"])),
            ),
            (
                "list of number or none",
                json!([null, 1]),
                Some(json!([null, 1])),
            ),
            ("true or false", json!("maybe"), None),
            ("text", json!(2024), Some(json!("2024"))),
            ("path", json!(["a"]), None),
            ("Shape", json!("cosine"), Some(json!("cosine"))),
            ("", json!({"a": 1}), Some(json!({"a": 1}))),
        ] {
            assert_eq!(typed(kind, &value), expected, "{kind}: {value}");
        }
    }

    #[test]
    fn a_fault_names_the_option_and_no_secret() {
        let doc = |name: &str, kind: &str| OptionDoc {
            name: name.to_owned(),
            kind: kind.to_owned(),
            default: None,
            doc: String::new(),
        };
        let docs = [doc("share", "number"), doc("token", "number")];
        let options = |name: &str| Options::from_iter([(name.to_owned(), json!("hunter2"))]);
        let said = |name: &str| coerce(&options(name), &docs).unwrap_err().to_string();
        assert_eq!(
            said("share"),
            "option share: expected a number, found \"hunter2\""
        );
        assert!(!said("token").contains("hunter2"), "{}", said("token"));
        assert!(coerce(&options("unknown"), &docs).is_ok());
    }
}
