//! Rows that are already tokenised: `{"input_ids": [..], "labels": [..], "loss_scale": [..]}`.
//!
//! They are trained as they are. `labels` is -100 where nothing is trained; `loss_scale` is a weight for
//! each label, 1 if it is left out. A mask with an entry for each token (`loss_mask`, TRL's
//! `completion_mask` and `assistant_masks`) takes what it gives 0 out of the labels, and makes labels where
//! there are none. What `attention_mask` gives 0 is padding, which is cut off: there is none here.

use super::{
    keys::{KeyPath, noting, take},
    marks::{Marks, RowMarks},
    row::{columns, kind, text},
};
use apus_sdk::{Converted, DatasetFormat, Error, Result, Row, Sample, TokenRow, register};
use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

const MASKS: [&str; 3] = ["loss_mask", "completion_mask", "assistant_masks"];
/// Columns that tokenizers write beside ids, and the text that the ids come from.
const HARMLESS: &[&str] = &["text", "segments", "length", "special_tokens_mask"];

#[derive(Deserialize)]
struct Tokens;

impl DatasetFormat for Tokens {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"input_ids")
    }

    fn rank(&self) -> i32 {
        40
    }

    fn row(&self, text: &str) -> Result<Row> {
        super::row::read(text)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        Ok(self.convert_noting(row)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        noting(row, HARMLESS, read)
    }
}

fn read(row: &mut Row, _: &KeyPath) -> Result<Vec<Sample>> {
    let found = columns(row);
    let missing = || {
        Error::new(format!(
            "a tokenised row needs `input_ids` and `labels`, found {found}"
        ))
    };
    let input_ids = numbers(row, "input_ids", "token ids", |value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok())
    })?;
    let input_ids = input_ids.ok_or_else(missing)?;
    let n = input_ids.len();
    let masks = masks(row, n)?;
    let labels = match numbers(row, "labels", "token ids or -100", Value::as_i64)? {
        None if masks.is_empty() => return Err(missing()),
        None => input_ids.iter().map(|id| i64::from(*id)).collect(),
        Some(labels) => labels,
    };
    let loss_scale = numbers(row, "loss_scale", "numbers of 0 or more", |value| {
        let weight = value.as_f64().filter(|weight| *weight >= 0.0)?;
        Some(weight as f32).filter(|weight| weight.is_finite())
    })?;
    fits("labels", labels.len(), n)?;
    fits("loss_scale", loss_scale.as_ref().map_or(n, Vec::len), n)?;
    if let Some(label) = labels.iter().find(|label| **label < 0 && **label != -100) {
        return Err(Error::new(format!(
            "label {label} is neither a token id nor -100"
        )));
    }
    let seen = attended(row, n)?;
    in_one_piece(row, &seen, n)?;
    let mut tokens = TokenRow {
        input_ids,
        labels,
        loss_scale,
        channel: text(row, &["channel"], false)?,
    };
    for mask in masks {
        let labels = tokens.labels.iter_mut().zip(mask);
        labels.for_each(|(label, trained)| {
            if !trained {
                *label = -100;
            }
        });
    }
    mark(&mut tokens, &RowMarks::take(row)?)?;
    Ok(vec![Sample::Tokens(cut(tokens, seen))])
}

/// The masks of what is trained, each with an entry for every token.
fn masks(row: &mut Row, n: usize) -> Result<Vec<Vec<bool>>> {
    let mut masks = Vec::new();
    for name in MASKS {
        if let Some(mask) = numbers(row, name, "0 or 1", bit)? {
            fits(name, mask.len(), n)?;
            masks.push(mask);
        }
    }
    Ok(masks)
}

/// The tokens that are no padding, by `attention_mask`.
fn attended(row: &mut Row, n: usize) -> Result<Range<usize>> {
    let Some(mask) = numbers(row, "attention_mask", "0 or 1", bit)? else {
        return Ok(0..n);
    };
    fits("attention_mask", mask.len(), n)?;
    let first = mask.iter().position(|seen| *seen);
    let last = mask.iter().rposition(|seen| *seen);
    let (Some(first), Some(last)) = (first, last) else {
        return Err("`attention_mask` is 0 everywhere: there is nothing but padding".into());
    };
    match mask[first..last].iter().position(|seen| !seen) {
        None => Ok(first..last + 1),
        Some(hole) => Err(Error::new(format!(
            "entry {} of `attention_mask` is 0 between tokens that are attended to; only padding at either \
             end can be left out",
            first + hole
        ))),
    }
}

/// A row is one sequence: positions that start anew, or several lengths, are several packed into one, which
/// would see each other.
fn in_one_piece(row: &mut Row, seen: &Range<usize>, n: usize) -> Result<()> {
    let packed = |name: &str| {
        Err(Error::new(format!(
            "`{name}` says that several sequences are packed into this row; give each a row of its own, and \
             let --packing true pack them"
        )))
    };
    if let Some(positions) = numbers(row, "position_ids", "positions", Value::as_u64)? {
        fits("position_ids", positions.len(), n)?;
        let seen = &positions[seen.clone()];
        let follows = |pair: &[u64]| pair[1].checked_sub(pair[0]) == Some(1);
        if !seen.windows(2).all(follows) {
            return packed("position_ids");
        }
    }
    match numbers(row, "seq_lengths", "lengths", Value::as_u64)? {
        Some(lengths) if lengths.len() > 1 => packed("seq_lengths"),
        _ => Ok(()),
    }
}

/// Marks of the row, which go over all of its labels or have an entry for each.
fn mark(tokens: &mut TokenRow, marks: &RowMarks) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    let n = tokens.labels.len();
    marks.fit(n, "tokens")?;
    for i in 0..n {
        let own = marks.of(i, Marks::default())?;
        if own.trained() == Some(false) {
            tokens.labels[i] = -100;
        }
        if let Some(weight) = own.weight() {
            let weights = tokens.loss_scale.get_or_insert_with(|| vec![1.0; n]);
            weights[i] *= weight as f32;
            if !weights[i].is_finite() {
                return Err(Error::new(format!(
                    "the weights of token {i} multiply to more than {:e}",
                    f32::MAX
                )));
            }
        }
    }
    Ok(())
}

fn cut(tokens: TokenRow, seen: Range<usize>) -> TokenRow {
    TokenRow {
        input_ids: tokens.input_ids[seen.clone()].to_vec(),
        labels: tokens.labels[seen.clone()].to_vec(),
        loss_scale: tokens.loss_scale.map(|weights| weights[seen].to_vec()),
        channel: tokens.channel,
    }
}

fn bit(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        value => value
            .as_f64()
            .filter(|n| *n == 0.0 || *n == 1.0)
            .map(|n| n == 1.0),
    }
}

fn fits(name: &str, found: usize, n: usize) -> Result<()> {
    match found == n {
        true => Ok(()),
        false => Err(Error::new(format!(
            "`{name}` has {found} entries, `input_ids` has {n}"
        ))),
    }
}

fn numbers<T>(
    row: &mut Row,
    name: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let items = match take(row, &[name]) {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(Error::new(format!(
                "`{name}` must be a list of {expected}, found {}",
                kind(&other)
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
    /// Rows that are already tokenised: input_ids, labels, and optionally loss_scale and masks.
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
            channel: None,
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

    fn tokens(row: Value) -> TokenRow {
        match convert(row).unwrap().remove(0) {
            Sample::Tokens(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn padding_is_cut_off() {
        let row = json!({"input_ids": [9, 1, 2, 9, 9], "labels": [9, -100, 2, 9, -100],
            "attention_mask": [0, 1, 1, 0, 0], "loss_scale": [1, 1, 0.5, 1, 1], "position_ids": [1, 0, 1, 1, 1]});
        let expected = TokenRow {
            input_ids: vec![1, 2],
            labels: vec![-100, 2],
            loss_scale: Some(vec![1.0, 0.5]),
            channel: None,
        };
        assert_eq!(tokens(row), expected);
        let error = |name: &str, value: Value| {
            let row = json!({"input_ids": [1, 2, 3], "labels": [1, 2, 3], name: value});
            convert(row).unwrap_err().to_string()
        };
        let bad = error("attention_mask", json!([1, 0, 1]));
        assert!(
            bad.contains("entry 1 of `attention_mask` is 0 between"),
            "{bad}"
        );
        assert!(error("attention_mask", json!([0, 0, 0])).contains("nothing but padding"));
        assert!(error("attention_mask", json!([1, 1, 2])).contains("is 2, expected 0 or 1"));
        assert!(error("attention_mask", json!([1, 1])).contains("has 2 entries"));
        assert!(error("position_ids", json!([0, 1, 0])).contains("packed into this row"));
        assert!(error("seq_lengths", json!([1, 2])).contains("--packing true"));
    }

    #[test]
    fn masks_say_what_is_trained() {
        for mask in MASKS {
            let row = json!({"input_ids": [1, 2, 3], mask: [0, 1, true]});
            assert_eq!(tokens(row).labels, [-100, 2, 3]);
            let row = json!({"input_ids": [1, 2, 3], "labels": [1, 2, -100], mask: [0, 1, 1]});
            assert_eq!(tokens(row).labels, [-100, 2, -100]);
            let row = json!({"input_ids": [1, 2], mask: [1]});
            assert!(
                convert(row)
                    .unwrap_err()
                    .to_string()
                    .contains("has 1 entries")
            );
        }
        let row =
            json!({"input_ids": [1, 2], "labels": [1, 2], "weight": 0.5, "loss_scale": [1, 3]});
        assert_eq!(tokens(row).loss_scale, Some(vec![0.5, 1.5]));
        let row = json!({"input_ids": [1, 2], "labels": [1, 2], "train": false});
        assert_eq!(tokens(row).labels, [-100, -100]);
    }

    #[test]
    fn what_apus_data_writes_is_known() {
        let row = json!({"text": "ab", "segments": [{"text": "ab", "weight": 1}], "input_ids": [1], "labels": [1],
            "loss_scale": [1], "messages": [{"role": "user", "content": "a"}], "channel": "c"});
        let Value::Object(row) = row else {
            panic!("a row is an object")
        };
        let converted = Tokens.convert_noting(row).unwrap();
        let [Sample::Tokens(tokens)] = &converted.samples[..] else {
            panic!("{converted:?}")
        };
        assert_eq!(tokens.channel.as_deref(), Some("c"));
        let unread = converted.unread.unwrap();
        let unused = unread.iter().filter(|unread| !unread.harmless);
        let unused: Vec<_> = unused.map(|unread| unread.path.as_str()).collect();
        assert_eq!(unused, ["messages"]);
    }
}
