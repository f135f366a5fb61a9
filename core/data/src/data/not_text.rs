//! Bytes in a place of a row where JSON has only text, such as an image in a column of a parquet file.
//!
//! An object stands in their place. A column that nobody reads may hold it; a row whose format reads it is bad.

use super::Record;
use super::unused::without_indices;
use apus_sdk::Unread;
use serde_json::{Value, json};

/// The key of the object.
const KEY: &str = "bytes that are no UTF-8 text";

/// The number of bytes that are shown.
const SHOWN: usize = 8;

/// What stands in the place of these bytes.
pub fn value(bytes: &[u8]) -> Value {
    let some = bytes.iter().take(SHOWN);
    let some: Vec<_> = some.map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > SHOWN { " .." } else { "" };
    let shown = format!("{}{more}, {} bytes", some.join(" "), bytes.len());
    json!({ KEY: shown })
}

/// What is wrong with a row of which all but `unread` was read, if bytes are among that.
pub fn fault(record: &Record, unread: &[Unread]) -> Option<String> {
    let found = places(record);
    if found.is_empty() {
        return None;
    }
    let unread: Vec<String> = unread
        .iter()
        .map(|unread| without_indices(&unread.path))
        .collect();
    let is_read = |path: &str| {
        let is_above = |unread: &String| {
            path.strip_prefix(unread.as_str())
                .is_some_and(|below| below.is_empty() || below.starts_with(['.', '[']))
        };
        !unread.iter().any(is_above)
    };
    let (path, shown) = found.into_iter().find(|(path, _)| is_read(path))?;
    Some(format!(
        "`{path}` holds {KEY} ({shown}); store text in it, or leave the column out of the file"
    ))
}

/// The places of bytes in a row, and what is shown of them.
pub fn places(record: &Record) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if record.text.contains(KEY)
        && let Ok(row) = record.row()
    {
        for (column, value) in row {
            look(&column, &value, &mut found);
        }
    }
    found
}

/// Collects the places of bytes in a value and what is shown of them.
fn look(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(entries) => {
            let path = format!("{path}[]");
            entries.iter().for_each(|entry| look(&path, entry, found));
        }
        Value::Object(fields) => match fields.get(KEY) {
            Some(Value::String(shown)) if fields.len() == 1 => {
                found.push((path.to_owned(), shown.clone()));
            }
            _ => fields
                .iter()
                .for_each(|(name, value)| look(&format!("{path}.{name}"), value, found)),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(row: &Value, unread: &[&str]) -> Option<String> {
        let unread: Vec<Unread> = unread
            .iter()
            .map(|&path| Unread {
                path: path.to_owned(),
                harmless: false,
            })
            .collect();
        let record = Record {
            source: "d.parquet".into(),
            line: 1,
            text: row.to_string(),
            format: None,
        };
        fault(&record, &unread)
    }

    #[test]
    fn bytes_are_a_fault_only_where_they_are_read() {
        let bytes = value(b"\x89PNG\r\n\x1a\n and more");
        let row = json!({
            "messages": [{"role": "tool", "content": bytes}, {"role": "user", "content": "q"}],
            "picture": {"bytes": bytes, "path": null},
        });
        let fault = found(&row, &["picture"]).unwrap();
        assert_eq!(
            fault,
            "`messages[].content` holds bytes that are no UTF-8 text (89 50 4e 47 0d 0a 1a 0a .., 17 bytes); store text \
             in it, or leave the column out of the file"
        );
        assert!(found(&row, &[]).is_some());
        assert!(found(&row, &["picture", "message"]).is_some());
        assert_eq!(found(&row, &["picture.bytes", "messages[0].content"]), None);
        assert_eq!(found(&json!({"messages": []}), &[]), None);
    }
}
