//! Lists stored as text: JSON, or the text of a list in Python (`str`), as ms-swift reads it
//! (`ast.literal_eval`): `[{'role': 'user', 'content': "it's"}, ('a', None)]`.

use apus_sdk::json;
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};
use std::str::Chars;

/// How deep lists may lie in each other.
const DEPTH: usize = 64;

/// Parses a text as a value.
///
/// # Errors
/// The text is not a value; the error says what was found, and at which character.
pub fn read(text: &str) -> Result<Value, String> {
    let no_json = match json::read(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(no_json.to_string());
    }
    let mut reader = Reader {
        rest: text.chars(),
        length: text.chars().count(),
    };
    let value = reader.value(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.unexpected("the end")),
    }
}

struct Reader<'a> {
    rest: Chars<'a>,
    length: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.rest.next();
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.space();
        let found = self.peek() == Some(wanted);
        if found {
            self.rest.next();
        }
        found
    }

    fn unexpected(&self, wanted: &str) -> String {
        let at = self.length - self.rest.clone().count() + 1;
        match self.peek() {
            Some(found) => format!("expected {wanted} at character {at}, found `{found}`"),
            None => format!("expected {wanted}, found the end"),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH {
            return Err(format!("more than {DEPTH} lists in each other"));
        }
        self.space();
        match self.peek() {
            Some('[') => self.items(']', depth),
            Some('(') => self.items(')', depth),
            Some('{') => self.fields(depth),
            Some('\'' | '"') => self.texts(),
            _ => self.word(),
        }
    }

    fn items(&mut self, close: char, depth: usize) -> Result<Value, String> {
        self.rest.next();
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            self.separator(close)?;
        }
        Ok(Value::Array(items))
    }

    fn fields(&mut self, depth: usize) -> Result<Value, String> {
        self.rest.next();
        let mut fields = Map::new();
        while !self.take('}') {
            let Value::String(key) = self.value(depth + 1)? else {
                return Err(self.unexpected("a key that is text, then `:`"));
            };
            if !self.take(':') {
                return Err(self.unexpected("`:`"));
            }
            let value = self.value(depth + 1)?;
            if fields.contains_key(&key) {
                return Err(format!("the key `{key}` is there twice"));
            }
            fields.insert(key, value);
            self.separator('}')?;
        }
        Ok(Value::Object(fields))
    }

    /// A comma, or the bracket that closes the list, which stays.
    fn separator(&mut self, close: char) -> Result<(), String> {
        self.space();
        if self.take(',') || self.peek() == Some(close) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`,` or `{close}`")))
    }

    /// Texts one after another are one text.
    fn texts(&mut self) -> Result<Value, String> {
        let mut text = String::new();
        while let Some(quote @ ('\'' | '"')) = self.peek() {
            self.rest.next();
            self.text(quote, &mut text)?;
            self.space();
        }
        Ok(Value::String(text))
    }

    fn text(&mut self, quote: char, out: &mut String) -> Result<(), String> {
        loop {
            match self.rest.next() {
                None => return Err(self.unexpected(&format!("{quote} after a text"))),
                Some(c) if c == quote => return Ok(()),
                Some('\\') => self.escape(out)?,
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), String> {
        let digits = match self.rest.next() {
            None => return Err(self.unexpected("the rest of a text")),
            Some('\n') => return Ok(()),
            Some('n') => return self.push(out, '\n'),
            Some('t') => return self.push(out, '\t'),
            Some('r') => return self.push(out, '\r'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c @ ('\\' | '\'' | '"')) => return self.push(out, c),
            Some(other) => {
                out.push('\\');
                return self.push(out, other);
            }
        };
        let code: String = self.rest.by_ref().take(digits).collect();
        let character = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
        match character {
            Some(c) => self.push(out, c),
            None => Err(format!("`{code}` is no code of a character")),
        }
    }

    fn push(&mut self, out: &mut String, c: char) -> Result<(), String> {
        out.push(c);
        Ok(())
    }

    fn word(&mut self) -> Result<Value, String> {
        let before = self.rest.clone();
        let mut word = String::new();
        while let Some(c) = self
            .peek()
            .filter(|c| c.is_alphanumeric() || "+-._".contains(*c))
        {
            word.push(c);
            self.rest.next();
        }
        let number = || {
            let whole = json::whole(word.strip_prefix('+').unwrap_or(&word));
            let digits = word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            let float = || Number::from_f64(word.parse().ok().filter(|_| digits)?);
            whole.or_else(|| float().map(Value::Number))
        };
        let value = match word.as_str() {
            "None" | "null" => Some(Value::Null),
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            _ => number(),
        };
        value.ok_or_else(|| {
            self.rest = before;
            self.unexpected("a value")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn python_and_json() {
        let cases = [
            (
                r#"[{'role': 'user', 'content': "it's"}, ('a', None)]"#,
                json!([{"role": "user", "content": "it's"}, ["a", null]]),
            ),
            ("[ ]", json!([])),
            ("(1,)", json!([1])),
            (
                "{'a': True, 'b': [False, -1.5, 2e3],}",
                json!({"a": true, "b": [false, -1.5, 2000.0]}),
            ),
            (r"['a\'\n\x41\u00e9\d' 'b']", json!(["a'\nAé\\db"])),
            (r#"{"a": "é\n"}"#, json!({"a": "é\n"})),
            ("[-0, +7, 18446744073709551615,]", json!([0, 7, u64::MAX])),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn long_integers_keep_their_digits() {
        for text in [
            "{'a': 123456789012345678901234567890}",
            r#"{"a": 123456789012345678901234567890}"#,
        ] {
            let found = read(text).unwrap();
            assert_eq!(
                apus_sdk::json::text(&found),
                r#"{"a":123456789012345678901234567890}"#
            );
        }
    }

    #[test]
    fn what_is_no_list_is_named() {
        let error = |text: &str| read(text).unwrap_err();
        assert_eq!(
            error("['a' 1]"),
            "expected `,` or `]` at character 6, found `1`"
        );
        assert_eq!(error("hello"), "expected a value at character 1, found `h`");
        assert_eq!(error("['a'"), "expected `,` or `]`, found the end");
        assert_eq!(error("['a"), "expected ' after a text, found the end");
        assert!(error("{1: 2}").contains("a key that is text"));
        assert!(error("{'a': 1, 'a': 2}").contains("`a` is there twice"));
        assert!(error(r#"{"a": 1, "a": 2}"#).contains("`a` is in one object twice"));
        assert!(error("[] x").contains("expected the end"));
        assert!(error("['\\ud800']").contains("no code"));
        assert!(error(&"[".repeat(100_000)).contains("more than 64"));
    }
}
