//! Values of a configuration file against the kinds of their flags.

use super::flag::{Flag, Kind, chain, component};
use anyhow::{Result, bail};
use serde_json::Value;

/// Checks a value of a file against the kind of its flag. A single text serves as a list, and a name as a
/// component without options.
///
/// # Errors
/// Another kind of value; the error says which one was expected and what was found.
pub(super) fn fit(flag: &Flag, value: Value) -> Result<Value> {
    match fitted(flag.kind, value) {
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

/// The value, or what of it does not fit.
fn fitted(kind: Kind, value: Value) -> Result<Value, Value> {
    let fits = match kind {
        Kind::Bool => value.is_boolean(),
        Kind::Int => value.is_i64() || value.is_u64(),
        Kind::Float => value.is_number(),
        Kind::Text => match &value {
            Value::Number(number) => return Ok(Value::String(number.to_string())),
            Value::Bool(truth) => return Ok(Value::String(truth.to_string())),
            value => value.is_string(),
        },
        Kind::List => {
            return each(value, |item| match item {
                Value::String(_) => Ok(item),
                other => Err(other),
            });
        }
        Kind::Floats => {
            return each(value, |item| match item {
                Value::Number(_) => Ok(item),
                other => Err(other),
            });
        }
        Kind::Json => match &value {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(Value::Object(table)) => return Ok(Value::Object(table)),
                _ => false,
            },
            value => value.is_object(),
        },
        Kind::JsonOrFile => value.is_string() || value.is_object(),
        Kind::Component => return one(value),
        Kind::Components => return each(value, one),
        Kind::Chain => {
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
        Kind::Plugins => {
            return each(value, |item| match &item {
                Value::String(_) => Ok(item),
                Value::Object(table) => {
                    let known = |(key, value): (&String, &Value)| {
                        ["path", "sha256", "prefix"].contains(&key.as_str()) && value.is_string()
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

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int => "a whole number",
        Kind::Float => "a number",
        Kind::Text => "text",
        Kind::List => "a list of texts",
        Kind::Floats => "a list of numbers",
        Kind::Json => "a table of options",
        Kind::JsonOrFile => "a table, or the path of a JSON file",
        Kind::Component => "a name, or a table with name and options",
        Kind::Components => "a list of names or tables with name and options",
        Kind::Chain => {
            "names with + between them, or a list of names or tables with name and options"
        }
        Kind::Plugins => "a list of paths, or of tables with path, sha256 and prefix",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
