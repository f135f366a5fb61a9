//! Writes JSON as Python's `json.dumps` does, since templates put such text into prompts.

use apus_sdk::json;
use serde_json::Value;
use std::fmt::Write;

/// The style of the text; the default is that of transformers' `tojson` filter.
#[derive(Debug, Clone)]
pub struct Style {
    /// The indentation of one level; `None` writes everything on one line.
    pub indent: Option<String>,
    /// The separator of entries. Python's default depends on `indent`: see [`Style::new`].
    pub item: String,
    /// The separator of key and value.
    pub key: String,
    /// Whether everything outside ASCII is written as `\u` escapes.
    pub ensure_ascii: bool,
    /// Whether keys are sorted by name.
    pub sort_keys: bool,
}

impl Style {
    /// The style with Python's separators for this indentation.
    pub fn new(indent: Option<String>) -> Self {
        Self {
            item: if indent.is_some() { "," } else { ", " }.to_owned(),
            indent,
            key: ": ".to_owned(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }
}

/// `json.dumps(value, ensure_ascii=False)`.
pub fn dumps(value: &Value) -> String {
    dumps_with(value, &Style::new(None))
}

/// `json.dumps` in a style.
pub fn dumps_with(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write(&mut out, value, style, 0);
    out
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) {
    if let Some(digits) = json::digits(value) {
        out.push_str(digits);
        return;
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => push(out, n),
            (_, Some(n), _) => push(out, n),
            (.., Some(n)) => out.push_str(&float(n)),
            _ => push(out, n),
        },
        Value::String(text) => string(out, text, style.ensure_ascii),
        Value::Array(items) => {
            let write_one = |out: &mut String, item: &&Value| write(out, item, style, depth + 1);
            group(out, ['[', ']'], items.iter(), style, depth, write_one);
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            if style.sort_keys {
                fields.sort_by_key(|(key, _)| *key);
            }
            let write_one = |out: &mut String, (key, value): &(&String, &Value)| {
                string(out, key, style.ensure_ascii);
                out.push_str(&style.key);
                write(out, value, style, depth + 1);
            };
            group(out, ['{', '}'], fields.into_iter(), style, depth, write_one);
        }
    }
}

fn group<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl ExactSizeIterator<Item = T>,
    style: &Style,
    depth: usize,
    write_one: impl Fn(&mut String, &T),
) {
    out.push(open);
    let filled = items.len() > 0;
    let line = |out: &mut String, depth| {
        if let Some(indent) = &style.indent
            && filled
        {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(&style.item);
        }
        line(out, depth + 1);
        write_one(out, &item);
    }
    line(out, depth);
    out.push(close);
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    out.push_str(&value.to_string());
}

/// Python's `repr` of a float: the shortest digits, an exponent from 1e16 up and below 1e-4.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => {
            let plain = value.to_string();
            let dot = if plain.contains('.') { "" } else { ".0" };
            plain + dot
        }
    }
}

fn string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c) && c != '\u{7f}') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn one_line_like_python() {
        let value =
            value!({"b": [1, -2.5, null, true], "a": {"é": "\"\n\u{1}\u{7f}☀"}, "e": [], "o": {}});
        let expected = "{\"b\": [1, -2.5, null, true], \"a\": {\"é\": \"\\\"\\n\\u0001\u{7f}☀\"}, \"e\": [], \"o\": {}}";
        assert_eq!(dumps(&value), expected);
    }

    /// What `json.dumps(json.loads(text))` gives in Python.
    #[test]
    fn numbers_as_python_reads_and_writes_them() {
        for (text, expected) in [
            ("1", "1"),
            ("1.0", "1.0"),
            ("1e5", "100000.0"),
            ("1E-7", "1e-07"),
            ("1.10", "1.1"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("123456789012345678", "123456789012345678"),
            ("18446744073709551616", "18446744073709551616"),
            (
                "-123456789012345678901234567890",
                "-123456789012345678901234567890",
            ),
            ("1234567890123456789012.0", "1.2345678901234568e+21"),
            ("0.1000000000000000055511151231257827", "0.1"),
        ] {
            let text = format!("{{\"a\": [{text}]}}");
            let found = dumps(&json::read(&text).unwrap());
            assert_eq!(found, format!("{{\"a\": [{expected}]}}"));
        }
    }

    #[test]
    fn indent_sort_and_ascii() {
        let style = Style {
            sort_keys: true,
            ensure_ascii: true,
            ..Style::new(Some("  ".to_owned()))
        };
        let found = dumps_with(&value!({"b": [1], "a": "é🙂"}), &style);
        assert_eq!(
            found,
            "{\n  \"a\": \"\\u00e9\\ud83d\\ude42\",\n  \"b\": [\n    1\n  ]\n}"
        );
    }

    #[test]
    fn floats_like_python() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1.25e300, "1.25e+300"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn integers_of_any_length_stay(digits in "-?[1-9][0-9]{0,60}") {
            let text = format!("[{digits}, {{\"a\": {digits}}}]");
            proptest::prop_assert_eq!(dumps(&json::read(&text).unwrap()), text);
        }
    }
}
