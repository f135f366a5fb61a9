//! Tool definitions (JSON schema) as openai-harmony 0.0.8 writes them: TypeScript types in a namespace.
//!
//! Where comments, separators and line breaks stand is the library's, so that prompts agree with it byte
//! for byte.

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// A namespace with one type a tool.
///
/// # Errors
/// A tool without a name, or with a description that is not text.
pub fn namespace(name: &str, tools: &[Value]) -> Result<String> {
    let mut lines = vec![format!("## {name}\n"), format!("namespace {name} {{\n")];
    for (i, tool) in tools.iter().enumerate() {
        let function = tool.get("function").unwrap_or(&Value::Null);
        write_tool(&mut lines, function).with_context(|| format!("tool {}", i + 1))?;
    }
    lines.push(format!("}} // namespace {name}"));
    Ok(lines.join("\n"))
}

fn write_tool(lines: &mut Vec<String>, tool: &Value) -> Result<()> {
    let name = tool.get("name").unwrap_or(&Value::Null);
    let name = name
        .as_str()
        .with_context(|| format!("`name` must be text, found {name}"))?;
    let description = super::tools::description(tool)?;
    lines.extend(description.lines().map(|line| format!("// {line}")));
    lines.push(match tool.get("parameters") {
        None | Some(Value::Null) => format!("type {name} = () => any;\n"),
        Some(schema) => format!("type {name} = (_: {}) => any;\n", kind(schema, "")),
    });
    Ok(())
}

/// The type of a schema. Lines after the first are indented by `indent`.
fn kind(schema: &Value, indent: &str) -> String {
    if let Some(variants) = list(schema, "oneOf") {
        let variant = |variant: &Value| {
            let comments = [
                text(variant, "description").map(str::to_owned),
                default(variant, true),
            ];
            let kind = nullable(variant, &format!("{indent}   "));
            format!("\n{indent} | {kind}{}", trailing(comments))
        };
        return variants.iter().map(variant).collect();
    }
    if let Some(names) = list(schema, "type") {
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).map(plain).collect();
        if !names.is_empty() {
            return names.join(" | ");
        }
    }
    match text(schema, "type") {
        Some("object") => object(schema, indent),
        Some("string") => {
            let values = list(schema, "enum").into_iter().flatten();
            let values: Vec<String> = values
                .filter_map(|value| Some(format!("\"{}\"", value.as_str()?)))
                .collect();
            match values.is_empty() {
                true => "string".to_owned(),
                false => values.join(" | "),
            }
        }
        Some(name @ ("number" | "integer" | "boolean")) => plain(name).to_owned(),
        Some("array") => match schema.get("items") {
            Some(items) => format!("{}[]", kind(items, indent)),
            None => "Array<any>".to_owned(),
        },
        _ => "any".to_owned(),
    }
}

fn plain(name: &str) -> &str {
    if name == "integer" { "number" } else { name }
}

/// As [`kind`], where the schema may also say `nullable`.
fn nullable(schema: &Value, indent: &str) -> String {
    let kind = kind(schema, indent);
    match schema.get("nullable") {
        Some(Value::Bool(true)) if !kind.contains("null") => format!("{kind} | null"),
        _ => kind,
    }
}

fn object(schema: &Value, indent: &str) -> String {
    let mut out = String::new();
    comment(&mut out, indent, text(schema, "description"));
    out.push_str("{\n");
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.unwrap_or(&empty) {
        let required = list(schema, "required").is_some_and(|all| all.iter().any(|n| n == name));
        let mark = if required { "" } else { "?" };
        before(&mut out, property, indent);
        match list(property, "oneOf") {
            Some(variants) => one_of(&mut out, (name, mark), property, variants, indent),
            None => {
                let kind = nullable(property, &format!("{indent}    "));
                out.push_str(&format!("{indent}{name}{mark}: {kind},"));
                let said = property.get("oneOf").is_some();
                let default = default(property, false).filter(|_| !said);
                out.push_str(&trailing([None, default]));
                out.push('\n');
            }
        }
    }
    out.push_str(indent);
    out.push('}');
    out
}

/// The comments above a property.
fn before(out: &mut String, property: &Value, indent: &str) {
    if let Some(title) = text(property, "title") {
        out.push_str(&format!("{indent}// {title}\n{indent}//\n"));
    }
    if property.get("oneOf").is_none() {
        comment(out, indent, text(property, "description"));
    }
    let examples = list(property, "examples").unwrap_or_default();
    if !examples.is_empty() {
        comment(out, indent, Some("Examples:"));
    }
    for example in examples.iter().filter_map(Value::as_str) {
        out.push_str(&format!("{indent}// - \"{example}\"\n"));
    }
}

/// A property that is one of several types, each on a line of its own.
fn one_of(
    out: &mut String,
    (name, mark): (&str, &str),
    property: &Value,
    variants: &[Value],
    indent: &str,
) {
    let said = text(property, "description");
    let first = variants
        .first()
        .and_then(|first| text(first, "description"));
    let above = said.filter(|said| first != Some(said));
    comment(out, indent, above);
    if let Some(default) = default(property, false) {
        comment(out, indent, Some(&default));
    }
    out.push_str(&format!("{indent}{name}{mark}:\n"));
    for (i, variant) in variants.iter().enumerate() {
        let hidden = i == 0 && above.is_some();
        let description = text(variant, "description").filter(|own| !hidden && Some(*own) != said);
        let comments = [description.map(str::to_owned), default(variant, false)];
        let kind = nullable(variant, &format!("{indent}   "));
        out.push_str(&format!("{indent} | {kind}{}\n", trailing(comments)));
    }
    out.push_str(&format!("{indent},\n"));
}

/// What is said of a schema's default. A text stands in quotes, unless it is one of an enum's; there
/// the library is of two minds, and `quoted` says which.
fn default(schema: &Value, quoted: bool) -> Option<String> {
    let default = schema.get("default")?;
    let is_enum = list(schema, "enum").is_some_and(|values| !values.is_empty());
    Some(match default.as_str() {
        Some(text) if !is_enum => format!("default: \"{text}\""),
        Some(text) if !quoted => format!("default: {text}"),
        _ => format!("default: {default}"),
    })
}

fn comment(out: &mut String, indent: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.push_str(&format!("{indent}// {text}\n"));
    }
}

fn trailing(comments: [Option<String>; 2]) -> String {
    let comments: Vec<String> = comments.into_iter().flatten().collect();
    match comments.is_empty() {
        true => String::new(),
        false => format!(" // {}", comments.join(" ")),
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key)?.as_str()
}

fn list<'a>(schema: &'a Value, key: &str) -> Option<&'a [Value]> {
    schema.get(key)?.as_array().map(Vec::as_slice)
}
