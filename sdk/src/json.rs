//! JSON text of rows, read with nothing lost: integers keep all their digits, and a key that is in an object
//! twice is an error.
//!
//! A [`Value`] holds integers of 64 bits, and `serde_json` makes a float of a longer one. Python, which most
//! data is made and served with, has no such limit. So [`read`] keeps a longer integer as an
//! object of one key, [`text`] writes its digits again, and [`digits`] says which value is one. Such an object
//! comes from [`read`] and [`whole`] alone: text that has the key is refused.

use crate::Result;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use std::{fmt, ops::Range};

/// The key of an object that stands for an integer of more than 64 bits.
const INTEGER: &str = "$apus::integer";

/// The fewest characters of an integer that may be too long for 64 bits.
const LONG: usize = 19;

/// Reads JSON text.
///
/// # Errors
/// Text that is not JSON, or has a key twice in one object.
///
/// ```
/// use apus_sdk::json;
///
/// let value = json::read(r#"{"id": 123456789012345678901234567890}"#)?;
/// assert_eq!(json::digits(&value["id"]), Some("123456789012345678901234567890"));
/// assert_eq!(json::text(&value), r#"{"id":123456789012345678901234567890}"#);
/// assert!(json::read(r#"{"a": 1, "a": 2}"#).is_err());
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub fn read(text: &str) -> Result<Value> {
    let Once(value) = serde_json::from_str(text)?;
    match spelled(text) {
        None => Ok(value),
        Some(text) => Ok(serde_json::from_str(&text)?),
    }
}

/// JSON text of a value, without spaces.
pub fn text(value: &Value) -> String {
    let mut text = value.to_string();
    // A text that spells these letters has its quotes escaped, so that it is not taken for an integer.
    let (open, close) = (format!("{{\"{INTEGER}\":\""), "\"}");
    let mut from = 0;
    while let Some(at) = text[from..].find(&open) {
        let start = from + at;
        let rest = &text[start + open.len()..];
        let digits = rest.find(close).map(|end| &rest[..end]);
        from = match digits.filter(|digits| is_whole(digits)).map(str::to_owned) {
            Some(digits) => {
                let end = start + open.len() + digits.len() + close.len();
                text.replace_range(start..end, &digits);
                start + digits.len()
            }
            None => start + open.len(),
        };
    }
    text
}

/// The digits of an integer that is too long for 64 bits, with its sign; `None` for any other value.
pub fn digits(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let text = fields.get(INTEGER)?.as_str()?;
    is_whole(text).then_some(text)
}

/// The value of a whole number in decimal digits, however many; `None` if the text is not a whole number.
pub fn whole(text: &str) -> Option<Value> {
    if !is_whole(text) {
        return None;
    }
    let number = text.parse::<i64>().map(Number::from);
    let number = number.or_else(|_| text.parse::<u64>().map(Number::from));
    Some(match number {
        Ok(number) => Value::Number(number),
        Err(_) => Value::Object(Map::from_iter([(INTEGER.to_owned(), text.into())])),
    })
}

fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Valid JSON text with the integers that a [`Value`] cannot hold as objects, and `-0`, of which it would make
/// a float, as 0; `None` if it has none.
fn spelled(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    for number in numbers(text) {
        let written = &text[number.clone()];
        let Some(value) = whole(written) else {
            continue;
        };
        let value = value.to_string();
        if value != written {
            out.push_str(&text[copied..number.start]);
            out.push_str(&value);
            copied = number.end;
        }
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// The numbers of valid JSON text that are long, and each `-0`.
fn numbers(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let (mut at, mut in_text) = (0, false);
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let byte = bytes[at];
            at += 1;
            match byte {
                b'\\' if in_text => at += 1,
                b'"' => in_text = !in_text,
                b'-' | b'0'..=b'9' if !in_text => {
                    let start = at - 1;
                    let rest = bytes[at..].iter();
                    let is_part =
                        |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                    at += rest.take_while(is_part).count();
                    if at - start >= LONG || bytes[start..at] == *b"-0" {
                        return Some(start..at);
                    }
                }
                _ => {}
            }
        }
        None
    })
}

/// A value whose objects have each key once.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> std::result::Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key == INTEGER {
                return Err(de::Error::custom(format_args!(
                    "the key `{INTEGER}` is kept for long integers"
                )));
            }
            let Once(value) = fields.next_value()?;
            match all.entry(key) {
                serde_json::map::Entry::Vacant(free) => free.insert(value),
                serde_json::map::Entry::Occupied(taken) => {
                    return Err(de::Error::custom(format_args!(
                        "the key `{}` is in one object twice",
                        taken.key()
                    )));
                }
            };
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_keep_their_digits() {
        let same = [
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "1.5",
            "1.0",
            "-0.0",
        ];
        for number in same {
            for text in [
                number.to_owned(),
                format!(r#"{{"a":[{number},{{"b":{number}}}],"c":"\"{number}"}}"#),
            ] {
                assert_eq!(super::text(&read(&text).unwrap()), text);
            }
        }
        assert_eq!(text(&read("-0").unwrap()), "0");
        assert_eq!(read("1e5").unwrap(), json!(100_000.0));
        assert_eq!(
            read("0.12345678901234567890123").unwrap(),
            json!(0.123_456_789_012_345_68)
        );
        assert_eq!(
            read("1234567890123456789012e-5").unwrap(),
            json!(1.234_567_890_123_456_8e16)
        );
        assert!(read("1e999").is_err());
    }

    #[test]
    fn what_looks_like_an_integer_and_is_none() {
        let text = r#"{"12345678901234567890123": "\\\"12345678901234567890123"}"#;
        assert_eq!(spelled(text), None);
        assert_eq!(digits(&json!("12345678901234567890123")), None);
        assert_eq!(digits(&json!({INTEGER: "1, 2"})), None);
        assert_eq!(digits(&json!({INTEGER: "12", "a": 1})), None);
        for bad in ["", "-", "+1", "1.0", "1e3", "0x10", " 1"] {
            assert_eq!(whole(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_that_are_there_twice_and_the_key_of_integers_are_refused() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        let bad = error(r#"{"m": [{"role": "a", "role": "b"}]}"#);
        assert!(
            bad.contains("the key `role` is in one object twice at line 1"),
            "{bad}"
        );
        let bad = error(r#"{"\u0024apus::integer": "1"}"#);
        assert!(bad.contains("kept for long integers"), "{bad}");
        assert!(error(&"[".repeat(1000)).contains("recursion limit"));
        assert!(error("{").contains("EOF"));
    }
}
