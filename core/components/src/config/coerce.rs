//! Checks the values of a configuration file against the kinds of their flags.

use super::flag::{Flag, ValueKind, chain, component};
use anyhow::{Result, bail};
use serde_json::Value;

/// Converts a value of a file to the kind of its flag: a single text becomes a list, and a name becomes a
/// component without options.
///
/// # Errors
/// Another kind of value; the error says which one was expected and what was found.
pub(super) fn coerce(flag: &Flag, value: Value) -> Result<Value> {
    match coerced(flag.kind, value) {
        Ok(value) => Ok(value),
        Err(found) if crate::secrets::is_secret(flag.name) => {
            let kind = kind_of(&found);
            bail!(
                "expected {}, found {kind}, which is not shown",
                expected(flag.kind)
            )
        }
        Err(found) => bail!("expected {}, found {found}", expected(flag.kind)),
    }
}

/// The converted value, or the part of it that is of another kind.
fn coerced(kind: ValueKind, value: Value) -> Result<Value, Value> {
    let fits = match kind {
        ValueKind::Bool => value.is_boolean(),
        ValueKind::Int => value.is_i64() || value.is_u64(),
        ValueKind::Float => value.is_number(),
        ValueKind::Text => match &value {
            Value::Number(number) => return Ok(Value::String(number.to_string())),
            Value::Bool(truth) => return Ok(Value::String(truth.to_string())),
            value => value.is_string(),
        },
        ValueKind::List => {
            return each(value, |item| match item {
                Value::String(_) => Ok(item),
                other => Err(other),
            });
        }
        ValueKind::Datasets => {
            return each(value, |item| match item {
                Value::String(_) | Value::Object(_) => Ok(item),
                other => Err(other),
            });
        }
        ValueKind::Floats => {
            return each(value, |item| match item {
                Value::Number(_) => Ok(item),
                other => Err(other),
            });
        }
        ValueKind::Json => match &value {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(Value::Object(table)) => return Ok(Value::Object(table)),
                _ => false,
            },
            value => value.is_object(),
        },
        ValueKind::JsonOrFile => value.is_string() || value.is_object(),
        ValueKind::Component => return one(value),
        ValueKind::Components => return each(value, one),
        ValueKind::Chain => {
            let links = |value| match value {
                Value::String(text) => Ok(chain(&text)),
                other => one(other),
            };
            let Value::Array(items) = each(value, links)? else {
                return Ok(Value::Array(Vec::new()));
            };
            let flat = items.into_iter().flat_map(|item| match item {
                Value::Array(links) => links,
                link => vec![link],
            });
            return Ok(flat.collect());
        }
        ValueKind::Plugins => {
            return each(value, |item| match &item {
                Value::String(_) => Ok(item),
                Value::Object(table) => {
                    let known = |(key, value): (&String, &Value)| match key.as_str() {
                        "path" | "sha256" | "prefix" => value.is_string(),
                        "timeout" | "start_timeout" | "processes" => value.is_u64(),
                        _ => false,
                    };
                    match table.contains_key("path") && table.iter().all(known) {
                        true => Ok(item),
                        false => Err(item),
                    }
                }
                _ => Err(item),
            });
        }
    };
    if fits { Ok(value) } else { Err(value) }
}

/// Each item of a list; a value that is no list is the only item of one.
fn each(value: Value, item: impl Fn(Value) -> Result<Value, Value>) -> Result<Value, Value> {
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    items.into_iter().map(item).collect()
}

/// A component: a name, or a table with a name.
fn one(value: Value) -> Result<Value, Value> {
    match &value {
        Value::String(name) => Ok(component(name)),
        Value::Object(table) if table.get("name").is_some_and(Value::is_string) => Ok(value),
        _ => Err(value),
    }
}

fn expected(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Bool => "true or false",
        ValueKind::Int => "a whole number",
        ValueKind::Float => "a number",
        ValueKind::Text => "text",
        ValueKind::List => "a list of texts",
        ValueKind::Datasets => "a list of texts, or of tables with path or id",
        ValueKind::Floats => "a list of numbers",
        ValueKind::Json => "a table of options",
        ValueKind::JsonOrFile => "a table, or the path of a JSON file",
        ValueKind::Component => "a name, or a table with name and options",
        ValueKind::Components => "a list of names or tables with name and options",
        ValueKind::Chain => {
            "names with + between them, or a list of names or tables with name and options"
        }
        ValueKind::Plugins => {
            "a list of paths, or of tables with path, sha256, prefix, timeout, start_timeout and processes"
        }
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
