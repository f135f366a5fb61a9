//! Options in words: types for people, the words of enums, errors of serde.

use super::OptionDoc;
use super::fields::asked;
use super::read::Probe;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The words that a value of this type may be: those of an enum, of the innermost type of a list or an `Option`.
#[doc(hidden)]
pub trait Values {
    fn values(&self) -> Vec<String>;
}

impl<T: DeserializeOwned> Values for Probe<T> {
    fn values(&self) -> Vec<String> {
        let variants = asked::<T>().variants.iter();
        variants.map(|variant| (*variant).to_owned()).collect()
    }
}

/// The choice for types that serde does not read by themselves (`#[serde(with = "..")]`).
#[doc(hidden)]
pub trait ValuesOfAny {
    fn values(&self) -> Vec<String>;
}

impl<T> ValuesOfAny for &Probe<T> {
    fn values(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One option as `options!` describes it.
#[doc(hidden)]
pub fn option(
    name: &str,
    aliases: &[&str],
    rust: &str,
    values: Vec<String>,
    default: &impl Serialize,
    doc: &str,
) -> OptionDoc {
    let aliases: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
    let also = match aliases.is_empty() {
        true => String::new(),
        false => format!(" Also called {}.", aliases.join(", ")),
    };
    OptionDoc {
        name: name.trim_start_matches("r#").to_owned(),
        kind: for_people(rust, &values),
        default: serde_json::to_value(default).ok(),
        doc: format!("{}{also}", doc.trim()).trim().to_owned(),
    }
}

/// Flags with the names under which the options that they stand for are read; `described` are the options of `fields`.
#[doc(hidden)]
pub fn flags(
    fields: &[&str],
    described: Vec<OptionDoc>,
    flags: &[(&str, &str)],
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (field, option) in std::iter::zip(fields, described) {
        let own = flags.iter().filter(|(of, _)| of == field);
        found.extend(own.map(|(_, flag)| ((*flag).to_owned(), option.name.clone())));
    }
    found
}

/// The options with the names under which a `T` reads them, which `rename_all` changes.
#[doc(hidden)]
pub fn read_as<T: DeserializeOwned>(mut options: Vec<OptionDoc>) -> Vec<OptionDoc> {
    let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let fields = asked::<T>().fields;
    for option in &mut options {
        let same = |field: &&&str| bare(field) == bare(&option.name);
        if !fields.contains(&&*option.name)
            && let Some(field) = fields.iter().find(same)
        {
            option.name = (*field).to_owned();
        }
    }
    options
}

fn for_people(rust: &str, values: &[String]) -> String {
    let rust: String = rust.split_whitespace().collect();
    let inner = |outer: &str| Some(rust.strip_prefix(outer)?.strip_suffix('>')?.to_owned());
    if let Some(inner) = inner("Option<") {
        return format!("{} or none", for_people(&inner, values));
    }
    if let Some(inner) = inner("Vec<") {
        return format!("list of {}", for_people(&inner, values));
    }
    match rust.rsplit("::").next().unwrap_or(&rust) {
        "f32" | "f64" => "number".to_owned(),
        "bool" => "true or false".to_owned(),
        "String" => "text".to_owned(),
        "PathBuf" => "path".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => {
            "whole number".to_owned()
        }
        _ if !values.is_empty() => format!("one of {}", values.join(", ")),
        other => other.to_owned(),
    }
}

/// What serde says of the value of an option, in the words of the other errors: what was expected, what was found.
pub(super) fn plain(error: &str, value: &Value) -> String {
    let shown = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let is_whole = |found: &str| match found {
        "sequence" => value.is_array(),
        "map" => value.is_object(),
        found => {
            let found = found.trim_start_matches("floating point ");
            let last = found.split_once(' ').map_or(found, |(_, last)| last);
            [found, last]
                .map(|text| text.trim_matches(['`', '"']))
                .contains(&&*shown)
        }
    };
    for kind in ["invalid type: ", "invalid value: ", VARIANT] {
        let rest = error.strip_prefix(kind);
        if let Some((found, expected)) = rest.and_then(|rest| rest.rsplit_once(", expected "))
            && is_whole(found)
        {
            let expected = match kind == VARIANT {
                true => format!("one of {}", words(expected)),
                false => expected.to_owned(),
            };
            return format!("expected {expected}, found {value}");
        }
    }
    error.to_owned()
}

const VARIANT: &str = "unknown variant ";

/// `a, b` out of serde's "`a` or `b`" and "one of `a`, `b`".
fn words(expected: &str) -> String {
    let words = expected.split('`').skip(1).step_by(2);
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_say_what_was_expected_and_found() {
        for (error, value, expected) in [
            (
                "invalid type: string \"x\", expected f64",
                json!("x"),
                "expected f64, found \"x\"",
            ),
            (
                "unknown variant `x`, expected `a` or `b`",
                json!("x"),
                "expected one of a, b, found \"x\"",
            ),
            (
                "unknown variant `x`, expected one of `a`, `b`, `c`",
                json!("x"),
                "expected one of a, b, c, found \"x\"",
            ),
            (
                "invalid value: integer `-1`, expected u32",
                json!(-1),
                "expected u32, found -1",
            ),
            (
                "invalid type: string \"x\", expected f64",
                json!(["x"]),
                "invalid type: string \"x\", expected f64",
            ),
            (
                "invalid type: floating point `1.5`, expected u32",
                json!(1.5),
                "expected u32, found 1.5",
            ),
            (
                "invalid type: sequence, expected f64",
                json!([1]),
                "expected f64, found [1]",
            ),
            ("something else", json!(1), "something else"),
        ] {
            assert_eq!(plain(error, &value), expected);
        }
    }
}
