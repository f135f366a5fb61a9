//! Writes values of a parquet file as JSON text.
//!
//! In a structure, every row has every field. If a row of the original data had no such key, Arrow stores a null, which cannot
//! be told from a key whose value was null. So a null in a structure counts as an absent key; nulls in columns, lists and maps
//! stay. Bytes without a type are text, as older writers stored it. Bytes that are no text, such as an image in a column that
//! the run does not use, become an object that says so (`data::not_text`).

use super::schema::FieldPath;
use crate::data::not_text;
use parquet::record::{Field, Row};
use serde::de::IgnoredAny;
use serde_json::{Number, Value};
use std::collections::HashSet;

/// The JSON text of a row. Texts at the paths of `json` are JSON themselves and are written as they are.
pub fn row(row: &Row, json: &HashSet<FieldPath>) -> String {
    let mut writer = Writer {
        out: String::new(),
        path: Vec::new(),
        json,
    };
    writer.fields(row, true);
    writer.out
}

struct Writer<'a> {
    out: String,
    path: FieldPath,
    json: &'a HashSet<FieldPath>,
}

impl Writer<'_> {
    fn fields(&mut self, row: &Row, are_columns: bool) {
        self.out.push('{');
        let mut is_first = true;
        let fields = row.get_column_iter();
        for (name, field) in fields.filter(|(_, field)| are_columns || !is_absent(field)) {
            self.comma(&mut is_first);
            self.text(name);
            self.out.push(':');
            self.path.push(name.clone());
            self.value(field);
            self.path.pop();
        }
        self.out.push('}');
    }

    fn comma(&mut self, is_first: &mut bool) {
        if !std::mem::take(is_first) {
            self.out.push(',');
        }
    }

    fn value(&mut self, field: &Field) {
        match field {
            Field::Null => self.out.push_str("null"),
            Field::Bool(flag) => self.out.push_str(if *flag { "true" } else { "false" }),
            Field::Byte(n) => self.number(*n),
            Field::Short(n) => self.number(*n),
            Field::Int(n) => self.number(*n),
            Field::Long(n) => self.number(*n),
            Field::UByte(n) => self.number(*n),
            Field::UShort(n) => self.number(*n),
            Field::UInt(n) => self.number(*n),
            Field::ULong(n) => self.number(*n),
            Field::Float16(n) => self.float(f64::from(*n)),
            Field::Float(n) => self.float(f64::from(*n)),
            Field::Double(n) => self.float(*n),
            Field::Str(text) if self.is_json(text) => self.out.push_str(text),
            Field::Str(text) => self.text(text),
            Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => self.text(text),
                Err(_) => self
                    .out
                    .push_str(&not_text::value(bytes.data()).to_string()),
            },
            Field::Decimal(_)
            | Field::Date(_)
            | Field::TimeMillis(_)
            | Field::TimeMicros(_)
            | Field::TimestampMillis(_)
            | Field::TimestampMicros(_) => self.text(&field.to_string()),
            Field::Group(row) => self.fields(row, false),
            Field::ListInternal(list) => {
                self.out.push('[');
                let mut is_first = true;
                for entry in list.elements() {
                    self.comma(&mut is_first);
                    self.value(entry);
                }
                self.out.push(']');
            }
            Field::MapInternal(map) => {
                self.out.push('{');
                let mut is_first = true;
                for (key, value) in map.entries() {
                    self.comma(&mut is_first);
                    self.key(key);
                    self.out.push(':');
                    self.value(value);
                }
                self.out.push('}');
            }
        }
    }

    /// Writes the key of a map. A key that is not text becomes its JSON text.
    fn key(&mut self, key: &Field) {
        if let Field::Str(text) = key {
            self.text(text);
            return;
        }
        let from = self.out.len();
        self.value(key);
        if !self.out[from..].starts_with('"') {
            let text = self.out.split_off(from);
            self.text(&text);
        }
    }

    fn number(&mut self, number: impl Into<Number>) {
        self.out.push_str(&number.into().to_string());
    }

    /// Writes a number; JSON has no infinities and no NaN, which become null.
    fn float(&mut self, number: f64) {
        match Number::from_f64(number) {
            Some(number) => self.number(number),
            None => self.out.push_str("null"),
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push_str(&Value::from(text).to_string());
    }

    /// Whether a text is JSON by the schema and in fact. Otherwise it stays text, and the format says what it expected.
    fn is_json(&self, text: &str) -> bool {
        self.json.contains(&self.path) && serde_json::from_str::<IgnoredAny>(text).is_ok()
    }
}

/// Whether the row does not have this key; pandas writes NaN for it.
fn is_absent(field: &Field) -> bool {
    match field {
        Field::Null => true,
        Field::Float16(n) => n.is_nan(),
        Field::Float(n) => n.is_nan(),
        Field::Double(n) => n.is_nan(),
        _ => false,
    }
}
