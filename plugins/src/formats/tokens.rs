//! Rows that are already tokenised: `{"input_ids": [..], "labels": [..], "loss_scale": [..]}`.
//!
//! They are trained as they are. `labels` is -100 where nothing is trained; `loss_scale` is a
//! weight for each label, 1 if it is left out.

use super::row::{columns, kind};
use apus_sdk::{DatasetFormat, Error, Result, Row, Sample, TokenRow, register};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Tokens;

impl DatasetFormat for Tokens {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"input_ids")
    }

    fn rank(&self) -> i32 {
        40
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let input_ids = numbers(&row, "input_ids", "token ids", |value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok())
        })?;
        let labels = numbers(&row, "labels", "token ids or -100", Value::as_i64)?;
        let (Some(input_ids), Some(labels)) = (input_ids, labels) else {
            return Err(Error::new(format!(
                "a tokenised row needs `input_ids` and `labels`, found {}",
                columns(&row)
            )));
        };
        let loss_scale = numbers(&row, "loss_scale", "numbers of 0 or more", |value| {
            let weight = value.as_f64().filter(|weight| *weight >= 0.0)?;
            Some(weight as f32).filter(|weight| weight.is_finite())
        })?;
        for (name, found) in [
            ("labels", labels.len()),
            (
                "loss_scale",
                loss_scale.as_ref().map_or(labels.len(), Vec::len),
            ),
        ] {
            if found != input_ids.len() {
                return Err(Error::new(format!(
                    "`{name}` has {found} entries, `input_ids` has {}",
                    input_ids.len()
                )));
            }
        }
        if let Some(label) = labels.iter().find(|label| **label < 0 && **label != -100) {
            return Err(Error::new(format!(
                "label {label} is neither a token id nor -100"
            )));
        }
        Ok(vec![Sample::Tokens(TokenRow {
            input_ids,
            labels,
            loss_scale,
        })])
    }
}

fn numbers<T>(
    row: &Row,
    name: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let items = match row.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(Error::new(format!(
                "`{name}` must be a list of {expected}, found {}",
                kind(other)
            )));
        }
    };
    let one = |(i, value): (usize, &Value)| {
        read(value).ok_or_else(|| {
            Error::new(format!(
                "entry {i} of `{name}` is {value}, expected {expected}"
            ))
        })
    };
    items
        .iter()
        .enumerate()
        .map(one)
        .collect::<Result<_>>()
        .map(Some)
}

register! {
    /// Rows that are already tokenised: input_ids, labels, and optionally loss_scale.
    DatasetFormat, "tokens", Tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn convert(row: Value) -> Result<Vec<Sample>> {
        let Value::Object(row) = row else {
            panic!("a row is an object")
        };
        Tokens.convert(row)
    }

    #[test]
    fn tokens_pass_through() {
        let row = json!({"input_ids": [1, 2], "labels": [-100, 2], "loss_scale": [0, 0.5]});
        let expected = TokenRow {
            input_ids: vec![1, 2],
            labels: vec![-100, 2],
            loss_scale: Some(vec![0.0, 0.5]),
        };
        assert_eq!(convert(row), Ok(vec![Sample::Tokens(expected)]));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |row| convert(row).unwrap_err().to_string();
        let bad = error(json!({"input_ids": [1, 2], "labels": [1]}));
        assert!(
            bad.contains("`labels` has 1 entries, `input_ids` has 2"),
            "{bad}"
        );
        let bad = error(json!({"input_ids": [1, -2], "labels": [1, 1]}));
        assert!(bad.contains("entry 1 of `input_ids` is -2"), "{bad}");
        let bad = error(json!({"input_ids": [1], "labels": [-1]}));
        assert!(bad.contains("label -1 is neither"), "{bad}");
        let bad = error(json!({"input_ids": [1]}));
        assert!(bad.contains("needs `input_ids` and `labels`"), "{bad}");
        let bad = error(json!({"input_ids": [1], "labels": [1], "loss_scale": [-1]}));
        assert!(bad.contains("0 or more"), "{bad}");
    }
}
