//! Loss scales and dataset formats: one text, one row.

use super::object;
use crate::abi::guard::guard;
use crate::{DatasetFormat, Error, Field, LossScale, Piece, Result, Row, Sample, Turn, needs};
use serde_json::Value;

/// Segments of the content of an assistant's last answer, with their weights.
///
/// # Errors
/// Those of the scale; segments that do not join back to the text; a weight that is negative or not
/// finite.
pub fn segments(scale: &dyn LossScale, text: &str) -> Result<Vec<(String, f64)>> {
    segments_of(scale, &Piece::new(text, &TURN))
}

/// The content of an assistant's last answer, as a turn.
pub const TURN: Turn = Turn {
    role: "assistant",
    field: Field::Content,
    query: None,
    is_last: true,
};

/// As [`segments`], of a piece that says where it stands.
///
/// # Errors
/// As there.
pub fn segments_of(scale: &dyn LossScale, piece: &Piece) -> Result<Vec<(String, f64)>> {
    let text = piece.text();
    let segments = needs::checked(scale.segments_of(piece))?;
    let joined: String = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    if joined != text {
        return Err(Error::new(format!(
            "the segments join to {joined:?}, the text is {text:?}"
        )));
    }
    let checked = segments.into_iter().map(|segment| {
        match segment.weight.is_finite() && segment.weight >= 0.0 {
            true => Ok((segment.text, segment.weight)),
            false => Err(Error::new(format!(
                "the weight of {:?} is {}; it is a finite number of 0 or more",
                segment.text, segment.weight
            ))),
        }
    });
    checked.collect()
}

/// Converts one row, a JSON object, as a run does that finds the format by the columns.
///
/// # Errors
/// Those of the format; columns that it does not recognise; token rows whose lists differ in length.
pub fn convert(format: &dyn DatasetFormat, row: Value) -> Result<Vec<Sample>> {
    let row = object(row, "rows")?;
    let columns: Vec<&str> = row.keys().map(String::as_str).collect();
    if !format.recognises(&columns) {
        return Err(Error::new(format!(
            "the format does not recognise the columns {}; testing::convert_named reads a row as a run that names the format, \
             with --dataset_format or DATASET?format=NAME",
            columns.join(", ")
        )));
    }
    samples(format, row)
}

/// As [`convert`], as a run does that names the format: it is not asked whether it recognises the columns.
///
/// # Errors
/// Those of the format, a panic among them, in the words that a run has for them behind the place of the row; token rows whose
/// lists differ in length.
pub fn convert_named(format: &dyn DatasetFormat, row: Value) -> Result<Vec<Sample>> {
    samples(format, object(row, "rows")?)
}

fn samples(format: &dyn DatasetFormat, row: Row) -> Result<Vec<Sample>> {
    let converted = guard(|| format.convert(row)).into_result();
    let samples = converted.map_err(Error::new)?;
    for sample in &samples {
        if let Sample::Tokens(row) = sample {
            let tokens = row.input_ids.len();
            let weights = row.loss_scale.as_ref().map_or(tokens, Vec::len);
            if [row.labels.len(), weights] != [tokens; 2] {
                return Err(Error::new(format!(
                    "{tokens} tokens with {} labels and {weights} weights",
                    row.labels.len()
                )));
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conversation, Message, Segment, TokenRow};
    use serde_json::json;

    /// What stands before the first space, and the rest.
    struct Split(&'static str, f64);
    impl LossScale for Split {
        fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
            let (head, tail) = text.split_once(' ').ok_or("one word")?;
            Ok(vec![
                Segment::new(format!("{head}{}", self.0), self.1),
                Segment::new(tail, 1.0),
            ])
        }
    }

    struct Pairs;
    impl DatasetFormat for Pairs {
        fn recognises(&self, columns: &[&str]) -> bool {
            columns.contains(&"q")
        }
        fn convert(&self, row: Row) -> Result<Vec<Sample>> {
            if let Some(tokens) = row.get("tokens") {
                return Ok(vec![Sample::Tokens(TokenRow {
                    input_ids: serde_json::from_value(tokens.clone())?,
                    ..TokenRow::default()
                })]);
            }
            let message = Message::new("user", row["q"].as_str().ok_or("q is text")?);
            Ok(vec![Sample::Conversation(Conversation {
                messages: vec![message],
                ..Conversation::default()
            })])
        }
    }

    #[test]
    fn segments_join_and_weigh_something() {
        let found = segments(&Split(" ", 0.0), "a b c").unwrap();
        assert_eq!(found, [("a ".to_owned(), 0.0), ("b c".to_owned(), 1.0)]);
        let said = |scale: Split| segments(&scale, "a b").unwrap_err().to_string();
        assert_eq!(
            said(Split("", 1.0)),
            r#"the segments join to "ab", the text is "a b""#
        );
        assert!(said(Split(" ", -1.0)).contains(r#"the weight of "a " is -1"#));
        assert!(said(Split(" ", f64::NAN)).contains("NaN"));
        assert!(segments(&Split(" ", 1.0), "a").is_err());
    }

    #[test]
    fn rows_are_recognised_and_checked() {
        let found = convert(&Pairs, json!({"q": "Hi"})).unwrap();
        let Sample::Conversation(conversation) = &found[0] else {
            panic!("{found:?}");
        };
        assert_eq!(conversation.messages[0].text(), Some("Hi"));
        let said = |row| convert(&Pairs, row).unwrap_err().to_string();
        let unknown = said(json!({"a": 1, "b": 2}));
        assert!(
            unknown.starts_with(
                "the format does not recognise the columns a, b; testing::convert_named"
            ),
            "{unknown}"
        );
        assert_eq!(said(json!({"q": 1})), "q is text");
        assert_eq!(
            said(json!({"q": 1, "tokens": [1]})),
            "1 tokens with 0 labels and 1 weights"
        );
        assert!(said(json!("Hi")).contains("a JSON object"));
    }

    #[test]
    fn a_format_that_is_named_reads_any_row() {
        struct Careless;
        impl DatasetFormat for Careless {
            fn recognises(&self, _columns: &[&str]) -> bool {
                false
            }
            fn convert(&self, row: Row) -> Result<Vec<Sample>> {
                let text = row["text"].as_str().ok_or("`text` is no text")?;
                assert_ne!(text, "", "an empty text");
                Ok(Vec::new())
            }
        }
        assert!(convert(&Careless, json!({"text": "a"})).is_err());
        let said = |row| convert_named(&Careless, row).map_err(|error| error.to_string());
        assert_eq!(said(json!({"text": "a"})), Ok(Vec::new()));
        assert_eq!(
            said(json!({"text": 1})),
            Err("`text` is no text".to_owned())
        );
        let panicked = said(json!({"text": ""})).unwrap_err();
        assert!(
            panicked.starts_with("panicked") && panicked.contains("an empty text"),
            "{panicked}"
        );
    }
}
