//! Definitions of tools: OpenAI's form, from a list, from JSON text, or from a table.
//!
//! A column of definitions in a table (Arrow, parquet, and the JSON that is written from one) has a place for
//! every key that any definition has, with null where a definition has none: `{"properties": {"city": {..},
//! "day": null}}`. In a schema null means nothing, but under the keys whose values are data.

use super::{
    keys::{KeyPath, take, take_if},
    literal,
    row::{columns, kind},
};
use apus_sdk::{Error, Result};
use serde_json::{Map, Value, json};

/// Keys of a schema whose values are data of any kind, as are those that begin with `x-`.
const DATA: [&str; 5] = ["default", "const", "enum", "examples", "example"];
/// Keys of a schema whose values are schemas by name.
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
];
/// Keys that only a schema has; parameters without any of them are none.
const SCHEMA: [&str; 19] = [
    "type",
    "properties",
    "$ref",
    "$schema",
    "anyOf",
    "oneOf",
    "allOf",
    "required",
    "additionalProperties",
    "patternProperties",
    "title",
    "description",
    "default",
    "const",
    "enum",
    "examples",
    "items",
    "$defs",
    "definitions",
];

/// A definition in OpenAI's form; a bare function is wrapped.
///
/// # Errors
/// A value that is not a definition.
pub fn tool(item: Value, at: &KeyPath) -> Result<Value> {
    let Value::Object(mut fields) = item else {
        return Err(no_tool(&item));
    };
    take_if(&mut fields, "type", |kind| kind == "function");
    let function = match take(&mut fields, &["function"]) {
        Some(function) => {
            let mut function = object("function", function)?;
            let read = function_of(&mut function, &at.key("function"))?;
            at.note_rest(&fields, &[])?;
            read
        }
        None if fields.get("name").is_some_and(|name| !name.is_null()) => {
            function_of(&mut fields, at)?
        }
        None => return Err(no_tool(&Value::Object(fields))),
    };
    Ok(json!({"type": "function", "function": function}))
}

fn no_tool(found: &Value) -> Error {
    Error::new(format!(
        "expected {{\"type\": \"function\", \"function\": {{\"name\": ..}}}}, found {found}"
    ))
}

/// The keys of a function that chat templates write; Anthropic's API has another name for its parameters.
fn function_of(fields: &mut Map<String, Value>, at: &KeyPath) -> Result<Map<String, Value>> {
    let names = [
        &["name"][..],
        &["description"],
        &["parameters", "input_schema"],
    ];
    let found = names.map(|names| Some((names[0].to_owned(), take(fields, names)?)));
    at.note_rest(fields, &["strict"])?;
    let mut function: Map<String, Value> = found.into_iter().flatten().collect();
    if let Some(given) = function.get_mut("parameters") {
        let mut parameters = Value::Object(object("parameters", given.take())?);
        clean(&mut parameters);
        check(&parameters)?;
        *given = parameters;
    }
    Ok(function)
}

/// An object, or the text of one.
fn object(name: &str, value: Value) -> Result<Map<String, Value>> {
    let value = match value {
        Value::String(text) => literal::read(&text)
            .map_err(|error| Error::new(format!("`{name}` is text that is no JSON: {error}")))?,
        value => value,
    };
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Error::new(format!(
            "`{name}` must be an object, found {}",
            kind(&other)
        ))),
    }
}

/// Takes nulls that mean nothing out of a schema.
fn clean(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => {
            fields.retain(|key, value| is_data(key) || !value.is_null());
            for (key, value) in fields {
                match value {
                    Value::Object(schemas) if NAMED.contains(&key.as_str()) => {
                        schemas.retain(|_, schema| !schema.is_null());
                        schemas.values_mut().for_each(clean);
                    }
                    value if !is_data(key) => clean(value),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn is_data(key: &str) -> bool {
    DATA.contains(&key) || key.starts_with("x-")
}

/// Templates write the `properties` of parameters; arguments by their names alone would be left out in silence.
fn check(parameters: &Value) -> Result<()> {
    let Some(fields) = parameters.as_object().filter(|fields| !fields.is_empty()) else {
        return Ok(());
    };
    if fields.keys().any(|key| SCHEMA.contains(&key.as_str())) {
        return Ok(());
    }
    Err(Error::new(format!(
        "`parameters` is no JSON schema, its keys are {}; expected {{\"type\": \"object\", \"properties\": {{..}}}}",
        columns(fields)
    )))
}

#[cfg(test)]
mod tests {
    use super::super::{messages::Messages, row::tests::convert};
    use super::*;

    fn read(value: Value) -> Result<Vec<Value>> {
        let row = json!({"messages": [{"role": "user", "content": "q"}], "tools": value});
        Ok(convert(&Messages::default(), row)?.tools)
    }

    fn parameters(value: Value) -> Value {
        let tool = json!([{"name": "f", "description": "d", "parameters": value}]);
        read(tool).unwrap()[0]["function"]["parameters"].clone()
    }

    #[test]
    fn every_way_of_storing_a_definition() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let function = json!({"name": "f", "description": "d", "parameters": schema});
        let expected = json!([{"type": "function", "function": function}]);
        let text = |value: &Value| Value::from(value.to_string());
        let texts = json!({"name": "f", "description": "d", "parameters": text(&schema)});
        let anthropic = json!([{"name": "f", "description": "d", "input_schema": schema}]);
        for stored in [
            expected.clone(),
            text(&expected),
            json!([text(&expected[0])]),
            json!([function]),
            json!([text(&function)]),
            json!([{"type": "function", "function": texts}]),
            json!([{"type": "function", "function": text(&texts)}]),
            json!([texts]),
            anthropic,
            json!([{"type": "function", "function": function, "name": null, "strict": null}]),
            json!([{"type": "function", "name": "f", "description": "d", "parameters": schema, "function": null}]),
        ] {
            let mut found = read(stored.clone()).unwrap();
            let function = found[0]["function"].as_object_mut().unwrap();
            function.retain(|key, _| key != "type" && key != "function");
            assert_eq!(Value::from(found), expected, "{stored}");
        }
    }

    #[test]
    fn null_in_a_schema_is_nothing_but_where_it_is_data() {
        let cleaned = parameters(json!({
            "type": "object", "title": null,
            "properties": {
                "a": {"type": "string", "description": null, "default": null, "const": null},
                "b": null,
                "default": null,
                "c": {"type": "array", "items": {"type": "object", "properties": {"x": null, "y": {"enum": [null, "q"]}}}},
                "d": {"anyOf": [{"type": "null", "minimum": null}, {"examples": [{"k": null}]}], "x-any": {"k": null}},
            },
            "$defs": {"e": null, "f": {"type": "string", "format": null}},
            "required": ["a"],
        }));
        assert_eq!(
            cleaned,
            json!({
                "type": "object",
                "properties": {
                    "a": {"type": "string", "default": null, "const": null},
                    "c": {"type": "array", "items": {"type": "object", "properties": {"y": {"enum": [null, "q"]}}}},
                    "d": {"anyOf": [{"type": "null"}, {"examples": [{"k": null}]}], "x-any": {"k": null}},
                },
                "$defs": {"f": {"type": "string"}},
                "required": ["a"],
            })
        );
    }

    #[test]
    fn definitions_that_are_none_are_named() {
        let error = |value| read(value).unwrap_err().to_string();
        let good = json!({"name": "f"});
        let bad = error(json!([good, {"description": "d"}]));
        assert!(
            bad.starts_with("column `tools`, entry 2: expected"),
            "{bad}"
        );
        let bad = error(json!([{"name": "f", "parameters": "{\"type\": "}]));
        assert!(
            bad.contains("`parameters` is text that is no JSON"),
            "{bad}"
        );
        let bad = error(json!([{"name": "f", "parameters": ["a"]}]));
        assert!(
            bad.contains("`parameters` must be an object, found a list"),
            "{bad}"
        );
        let bad = error(json!([{"name": "f", "parameters": {"city": {"type": "string"}}}]));
        assert!(bad.contains("no JSON schema, its keys are `city`"), "{bad}");
        assert_eq!(parameters(json!({})), json!({}));
        assert_eq!(
            parameters(json!({"type": "object"})),
            json!({"type": "object"})
        );
    }

    #[test]
    fn long_integers_keep_their_digits() {
        let text = r#"[{"name": "f", "parameters": {"properties": {"a": {"maximum": 123456789012345678901234567890}}}}]"#;
        let found = read(text.into()).unwrap();
        let maximum = &found[0]["function"]["parameters"]["properties"]["a"]["maximum"];
        assert_eq!(
            apus_sdk::json::digits(maximum),
            Some("123456789012345678901234567890")
        );
    }
}
