//! Finds the values of a parquet file that are JSON text: only the schema says so.

use anyhow::{Result, ensure};
use parquet::{basic::ConvertedType, schema::types::Type};
use std::collections::HashSet;

/// The path of a value: the column, and the names of the structures' fields below it. A value in a list or a map has the path
/// of the list or map.
pub type FieldPath = Vec<String>;

/// The paths whose texts are JSON by the schema, which is how Arrow's type `arrow.json` is stored: Hugging Face's
/// datasets gives it to columns whose values have several types.
///
/// # Errors
/// Two columns, or two fields of a structure, have the same name.
pub fn json_texts(schema: &Type) -> Result<HashSet<FieldPath>> {
    let mut found = HashSet::new();
    fields(schema, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn fields(group: &Type, path: &mut FieldPath, found: &mut HashSet<FieldPath>) -> Result<()> {
    let mut names = HashSet::new();
    for field in group.get_fields() {
        path.push(field.name().to_owned());
        ensure!(
            names.insert(field.name()),
            "there are two columns `{}`, of which only one could be read; rename or remove one",
            path.join(".")
        );
        value(field, path, found)?;
        path.pop();
    }
    Ok(())
}

fn value(of: &Type, path: &mut FieldPath, found: &mut HashSet<FieldPath>) -> Result<()> {
    let kind = of.get_basic_info().converted_type();
    if of.is_primitive() {
        if kind == ConvertedType::JSON {
            found.insert(path.clone());
        }
        return Ok(());
    }
    match (kind, of.get_fields()) {
        (ConvertedType::LIST, [repeated]) => match element(repeated) {
            Some(element) => value(element, path, found),
            None => value(repeated, path, found),
        },
        (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [entries])
            if !entries.is_primitive() =>
        {
            entries
                .get_fields()
                .iter()
                .skip(1)
                .try_for_each(|of| value(of, path, found))
        }
        _ => fields(of, path, found),
    }
}

/// The element inside the repeated group of a list; `None` if the repeated field is the element itself, as
/// in lists of older writers.
fn element(repeated: &Type) -> Option<&Type> {
    if repeated.is_primitive() {
        return None;
    }
    let name = repeated.name();
    match repeated.get_fields() {
        [element] if name != "array" && !name.ends_with("_tuple") => Some(element),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::schema::parser::parse_message_type;

    fn texts(schema: &str) -> Result<Vec<String>> {
        let schema = parse_message_type(&format!("message m {{ {schema} }}")).unwrap();
        let found = json_texts(&schema)?;
        let mut paths: Vec<String> = found.into_iter().map(|path| path.join(".")).collect();
        paths.sort();
        Ok(paths)
    }

    #[test]
    fn json_is_found_in_columns_lists_maps_and_structures() {
        let found = texts(
            "optional binary a (JSON);
             optional binary b (UTF8);
             optional group c (LIST) { repeated group list { optional binary element (JSON); } }
             optional group d (LIST) { repeated group list { optional group element {
                 optional binary x (JSON); optional int64 y; } } }
             optional group e (MAP) { repeated group key_value {
                 required binary key (UTF8); optional binary value (JSON); } }
             optional group f (LIST) { repeated group array { optional binary x (JSON); } }
             optional group g { optional group h { optional binary i (JSON); } }",
        );
        assert_eq!(found.unwrap(), ["a", "c", "d.x", "e", "f.x", "g.h.i"]);
    }

    #[test]
    fn a_name_that_is_there_twice() {
        let error = |schema: &str| texts(schema).unwrap_err().to_string();
        let bad = error("optional int64 a; optional int64 b; optional binary a;");
        assert!(bad.contains("two columns `a`"), "{bad}");
        let bad = error("optional group a { optional int64 b; optional int64 b; }");
        assert!(bad.contains("two columns `a.b`"), "{bad}");
    }
}
