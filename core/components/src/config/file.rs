//! Reads a configuration file in TOML and keeps the line of each key, for messages.

use anyhow::{Context, Result, anyhow, bail};
use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A key of the file.
pub(super) struct Entry {
    /// The key as it is written.
    pub key: String,
    /// Its file and line, for messages: `run.toml, line 3, key lora_rank`.
    pub place: String,
    /// Its value. A date is kept as text.
    pub value: Value,
}

/// The keys of a file, in their order.
///
/// # Errors
/// A file that cannot be read or is no TOML.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = small_file::text(path, Limit::WRITTEN)?;
    let line = |at: usize| 1 + text.get(..at).unwrap_or(&text).matches('\n').count();
    let table = DeTable::parse(&text).map_err(|error| malformed(path, &text, &error))?;
    table
        .into_inner()
        .into_iter()
        .map(|(key, value)| {
            let line = line(key.span().start);
            let key = key.into_inner().into_owned();
            let place = format!("{}, line {line}, key {key}", path.display());
            let value = json(value.into_inner()).with_context(|| place.clone())?;
            Ok(Entry { key, place, value })
        })
        .collect()
}

fn json(value: DeValue) -> Result<Value> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(truth) => Value::Bool(truth),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            match (
                i64::from_str_radix(digits, radix),
                u64::from_str_radix(digits, radix),
            ) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => bail!("{number} does not fit into 64 bits"),
            }
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(finite) if finite.is_finite() => finite.into(),
            _ => bail!("expected a finite number, found {number}"),
        },
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| json(item.into_inner()));
            Value::Array(items.collect::<Result<_>>()?)
        }
        DeValue::Table(table) => {
            let items = table.into_iter().map(|(key, value)| {
                let key = key.into_inner().into_owned();
                let value = json(value.into_inner()).with_context(|| key.clone())?;
                Ok((key, value))
            });
            Value::Object(items.collect::<Result<Map<_, _>>>()?)
        }
    })
}

/// Where a file is not valid TOML, and why. Unlike the error of `toml`, this one does not show the line, which may
/// contain a token.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let path = path.display();
    let Some(span) = error.span() else {
        return anyhow!("{path}: malformed: {}", error.message());
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|&c| c != '\n').count();
    anyhow!(
        "{path}, line {line}, column {column}: malformed: {}",
        error.message()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Entry>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn said(text: &str) -> String {
        format!("{:#}", read_text(text).err().unwrap())
    }

    #[test]
    fn a_key_knows_its_line() {
        let text = "seed_x = 1\n# seed = 2\nsystem = '''\nseed = 3\n'''\nseed = 4\n[optimizer]\nname = 'lion'\n";
        let entries = read_text(text).unwrap();
        let places: Vec<&str> = entries
            .iter()
            .map(|entry| entry.place.split_once(", ").unwrap().1)
            .collect();
        assert_eq!(
            places,
            [
                "line 1, key seed_x",
                "line 3, key system",
                "line 6, key seed",
                "line 7, key optimizer"
            ]
        );
    }

    #[test]
    fn values_of_every_kind() {
        let text = "a = 2026-01-31\nb = 2026-01-31T07:32:00Z\nc = 0xff\nd = 18446744073709551615\ne = 1e-4\n\
                    f = ['a', { name = 'b', k = 1 }, 3]\n";
        let entries = read_text(text).unwrap();
        let values: Vec<String> = entries
            .iter()
            .map(|entry| entry.value.to_string())
            .collect();
        assert_eq!(
            values,
            [
                "\"2026-01-31\"",
                "\"2026-01-31T07:32:00Z\"",
                "255",
                "18446744073709551615",
                "0.0001",
                "[\"a\",{\"name\":\"b\",\"k\":1},3]"
            ]
        );
    }

    #[test]
    fn faults_are_named_with_their_line() {
        for number in ["nan", "-inf", "1e999"] {
            let said = said(&format!("a = 1\nb = {number}\n"));
            assert!(
                said.contains("line 2, key b: expected a finite number"),
                "{said}"
            );
        }
        assert!(said("a = 99999999999999999999\n").contains("line 1, key a"));
    }

    /// A line with a mistake may contain a token, so the error gives its number and not its text.
    #[test]
    fn a_malformed_file_shows_no_secret() {
        for (text, place) in [
            ("swanlab_token = \"k-secret\n", "line 1, column"),
            ("a = 1\nswanlab_token = k-secret\n", "line 2, column 17"),
            ("\n\nswanlab_token \"k-secret\"", "line 3, column"),
        ] {
            let error = said(text);
            assert!(
                error.contains("run.toml") && error.contains(place),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
