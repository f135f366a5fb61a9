//! Tool definitions (JSON schema) as the model's chat template writes them: TypeScript types in a namespace.
//!
//! Odd spacing here is that of the reference template: prompts must agree with it byte for byte.

use crate::chat::{json::dumps, template::truthy};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// Types longer than this are written `any[]` inside an array.
const LONG: usize = 50;
/// What the reference template leaves between the name and the type of a nested property.
const NESTED: &str = "\n                ";
/// What it leaves before the default of a variant.
const VARIANT: &str = "                    ";

/// A namespace with one type a tool.
///
/// # Errors
/// A tool without a name, or with a schema that is none.
pub fn namespace(name: &str, tools: &[Value]) -> Result<String> {
    let mut out = format!("## {name}\n\nnamespace {name} {{\n\n");
    for (i, tool) in tools.iter().enumerate() {
        let function = tool.get("function").unwrap_or(&Value::Null);
        write_tool(&mut out, function).with_context(|| format!("tool {}", i + 1))?;
    }
    out.push_str(&format!("}} // namespace {name}"));
    Ok(out)
}

fn write_tool(out: &mut String, tool: &Value) -> Result<()> {
    let description = description(tool)?;
    let name = string(tool, "name")?;
    out.push_str(&format!("// {description}\ntype {name} = "));
    let empty = Map::new();
    let parameters = tool.get("parameters").unwrap_or(&Value::Null);
    let properties = parameters.get("properties").and_then(Value::as_object);
    let properties = properties.unwrap_or(&empty);
    if properties.is_empty() {
        out.push_str("() => any;\n\n");
        return Ok(());
    }
    out.push_str("(_: {\n");
    for (name, spec) in properties {
        if let Some(text) = filled(spec, "description") {
            out.push_str(&format!("// {}\n", as_text(text, "description")?));
        }
        let kind = kind(spec).with_context(|| format!("parameter `{name}`"))?;
        out.push_str(&format!("{name}{}: {kind}", optional(parameters, name)));
        if let Some(default) = spec.get("default") {
            if filled(spec, "enum").is_some() {
                out.push_str(&format!(", // default: {}", as_text(default, "default")?));
            } else if filled(spec, "oneOf").is_some() {
                out.push_str(&format!("// default: {}", as_text(default, "default")?));
            } else {
                out.push_str(&format!(", // default: {}", dumps(default)));
            }
        }
        out.push_str(",\n");
    }
    out.push_str("}) => any;\n\n");
    Ok(())
}

/// What a tool is for; a tool need not say.
///
/// # Errors
/// A description that is not text.
pub fn description(tool: &Value) -> Result<&str> {
    match tool.get("description") {
        None | Some(Value::Null) => Ok(""),
        Some(value) => as_text(value, "description"),
    }
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    as_text(value.get(key).unwrap_or(&Value::Null), key)
}

fn as_text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value
        .as_str()
        .with_context(|| format!("`{key}` must be text, found {value}"))
}

fn filled<'a>(spec: &'a Value, key: &str) -> Option<&'a Value> {
    spec.get(key).filter(|value| truthy(value))
}

fn optional(schema: &Value, name: &str) -> &'static str {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = required.is_some_and(|names| names.iter().any(|n| n == name));
    if is_required { "" } else { "?" }
}

fn nullable(spec: &Value) -> &'static str {
    filled(spec, "nullable").map_or("", |_| " | null")
}

/// The TypeScript type of a schema.
fn kind(spec: &Value) -> Result<String> {
    let plain = match spec.get("type") {
        Some(Value::Array(names)) if !names.is_empty() => {
            return Ok(names.iter().map(display).collect::<Vec<_>>().join(" | "));
        }
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    if plain == "array" {
        return Ok(array(spec)? + nullable(spec));
    }
    if let Some(Value::Array(variants)) = filled(spec, "oneOf") {
        return one_of(variants);
    }
    Ok(match plain {
        "string" => match filled(spec, "enum") {
            Some(Value::Array(values)) => {
                let values: Vec<_> = values.iter().map(display).collect();
                format!("\"{}\"", values.join("\" | \""))
            }
            Some(other) => bail!("`enum` must be a list, found {other}"),
            None => format!("string{}", nullable(spec)),
        },
        "number" | "integer" => "number".to_owned(),
        "boolean" => "boolean".to_owned(),
        "object" => object(spec)?,
        _ => "any".to_owned(),
    })
}

/// A value as Python's `str` writes it, where names of types and entries of enums are concerned.
fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => dumps(other),
    }
}

fn array(spec: &Value) -> Result<String> {
    let Some(items) = filled(spec, "items") else {
        return Ok("any[]".to_owned());
    };
    Ok(match items.get("type").and_then(Value::as_str) {
        Some("string") => "string[]".to_owned(),
        Some("number" | "integer") => "number[]".to_owned(),
        Some("boolean") => "boolean[]".to_owned(),
        _ => match kind(items)? {
            inner if inner == "object | object" || inner.chars().count() > LONG => {
                "any[]".to_owned()
            }
            inner => inner + "[]",
        },
    })
}

fn one_of(variants: &[Value]) -> Result<String> {
    let mut out = String::new();
    for (i, variant) in variants.iter().enumerate() {
        out.push_str(&kind(variant)?);
        if let Some(text) = filled(variant, "description") {
            out.push_str(&format!("// {}", as_text(text, "description")?));
        }
        if let Some(default) = variant.get("default") {
            out.push_str(&format!("{VARIANT}// default: {}", dumps(default)));
        }
        if i + 1 < variants.len() {
            out.push_str(" | \n");
        }
    }
    Ok(out)
}

fn object(spec: &Value) -> Result<String> {
    let Some(Value::Object(properties)) = filled(spec, "properties") else {
        return Ok("object".to_owned());
    };
    let mut out = "{\n".to_owned();
    for (i, (name, property)) in properties.iter().enumerate() {
        let kind = kind(property).with_context(|| format!("property `{name}`"))?;
        out.push_str(&format!("{name}{}: {NESTED}{kind}", optional(spec, name)));
        if i + 1 < properties.len() {
            out.push_str(", ");
        }
    }
    out.push('}');
    Ok(out)
}
