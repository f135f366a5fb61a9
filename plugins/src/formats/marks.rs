//! Marks of what is trained, on a message or on the row: `loss`, `train`, `weight` and their like, as the
//! datasets of several trainers have them. They are obeyed; two that contradict each other are an error.

use super::{keys::take, row::kind};
use apus_sdk::{Error, Message, Result, Row};
use serde_json::{Map, Value};

/// The names of all marks.
pub const NAMES: [&str; 7] = [
    "loss",
    "train",
    "training",
    "trainable",
    "weight",
    "loss_mask",
    "loss_scale",
];

/// The value that a mark gives.
#[derive(Debug, Clone, PartialEq)]
struct Marked<T> {
    value: T,
    /// The mark as it stands in the row, for errors: `weight: 0`.
    mark: String,
}

/// The marks of a message, taken together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    trained: Option<Marked<bool>>,
    weight: Option<Marked<f64>>,
}

impl Marks {
    /// Takes the marks of a message.
    ///
    /// # Errors
    /// A value that a mark cannot have, or two marks that contradict each other.
    pub fn take(fields: &mut Map<String, Value>) -> Result<Self> {
        let mut marks = Self::default();
        for name in NAMES {
            if let Some(value) = take(fields, &[name]) {
                marks.add(name, name, &value)?;
            }
        }
        Ok(marks)
    }

    /// Adds a mark that stands at `place`.
    fn add(&mut self, name: &str, place: &str, value: &Value) -> Result<()> {
        let mark = format!("{place}: {value}");
        let (trained, weight) = read(name, value)?;
        self.merge(Self {
            trained: trained.map(|value| Marked {
                value,
                mark: mark.clone(),
            }),
            weight: weight.map(|value| Marked { value, mark }),
        })
    }

    /// Adds other marks of the same message.
    fn merge(&mut self, other: Self) -> Result<()> {
        merge(&mut self.trained, other.trained)?;
        merge(&mut self.weight, other.weight)
    }

    /// Whether they have their message trained; `None` if no mark decides it.
    pub fn trained(&self) -> Option<bool> {
        self.trained.as_ref().map(|marked| marked.value)
    }

    /// The weight that they give.
    pub fn weight(&self) -> Option<f64> {
        self.weight.as_ref().map(|marked| marked.value)
    }

    /// Writes them into a message. Returns a mark that cannot be obeyed: as in ms-swift, one that would
    /// have a message trained that is not the assistant's.
    pub fn write(&self, message: &mut Message) -> Option<&str> {
        message.loss_scale = self.weight();
        match &self.trained {
            Some(marked) if marked.value && message.role != "assistant" => Some(&marked.mark),
            marked => {
                message.loss = marked.as_ref().map(|marked| marked.value);
                None
            }
        }
    }
}

/// Keeps the value of whichever of two marks is given.
///
/// # Errors
/// They contradict each other.
fn merge<T: PartialEq>(own: &mut Option<Marked<T>>, other: Option<Marked<T>>) -> Result<()> {
    match (&*own, other) {
        (Some(one), Some(two)) if one.value != two.value => Err(Error::new(format!(
            "`{}` and `{}` contradict each other; leave one of them out",
            one.mark, two.mark
        ))),
        (None, Some(two)) => {
            *own = Some(two);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether a mark has its message trained, and with which weight.
fn read(name: &str, value: &Value) -> Result<(Option<bool>, Option<f64>)> {
    let folded = match value {
        Value::String(text) => Value::String(text.trim().to_ascii_lowercase()),
        other => other.clone(),
    };
    // Tables without types write every value as text.
    let flag = match &folded {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let number = match &folded {
        Value::String(text) => text.parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let number = number.filter(|number| *number >= 0.0 && (*number as f32).is_finite());
    let wrong = |expected: &str| {
        let found = match value {
            Value::Number(_) | Value::String(_) | Value::Bool(_) => value.to_string(),
            other => kind(other).to_owned(),
        };
        Err(Error::new(format!(
            "`{name}` must be {expected}, found {found}"
        )))
    };
    match (name, flag, number) {
        ("loss_scale", None, Some(weight)) => Ok(((weight == 0.0).then_some(false), Some(weight))),
        ("loss_scale", ..) => wrong(&format!("a number from 0 to {:e}", f32::MAX)),
        (_, Some(flag), _) => Ok((Some(flag), None)),
        (_, _, Some(number)) if number == 0.0 || number == 1.0 => Ok((Some(number == 1.0), None)),
        ("weight" | "loss_mask", _, Some(weight)) => Ok((Some(true), Some(weight))),
        ("weight" | "loss_mask", ..) => wrong("true, false or a number of 0 or more"),
        _ => wrong("true, false, 1 or 0 (a weight is `loss_scale`)"),
    }
}

/// The marks of a row: those for all of its messages, and lists with one for each.
#[derive(Debug, Default)]
pub struct RowMarks {
    all: Marks,
    each: Vec<(&'static str, Vec<Value>)>,
}

impl RowMarks {
    /// Takes the marks of a row.
    pub fn take(row: &mut Row) -> Result<Self> {
        let mut marks = Self::default();
        for name in NAMES {
            let Some(value) = take(row, &[name]) else {
                continue;
            };
            let in_text = match &value {
                Value::String(text) if text.trim_start().starts_with(['[', '(']) => {
                    super::literal::read(text).ok()
                }
                _ => None,
            };
            match in_text.unwrap_or(value) {
                Value::Array(each) => marks.each.push((name, each)),
                value => marks.all.add(name, name, &value).map_err(|error| {
                    Error::new(format!(
                        "{error}; a column that is no mark of what is trained needs another name (--columns)"
                    ))
                })?,
            }
        }
        Ok(marks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty() && self.all == Marks::default()
    }

    /// Whether there are as many marks in each list as there are things to mark.
    ///
    /// # Errors
    /// A list that has more or fewer.
    pub fn fit(&self, count: usize, what: &str) -> Result<()> {
        match self.each.iter().find(|(_, each)| each.len() != count) {
            None => Ok(()),
            Some((name, each)) => Err(Error::new(format!(
                "column `{name}` has {} marks for {count} {what}",
                each.len()
            ))),
        }
    }

    /// The marks of one thing, `own` among them. A row that is trained leaves it to each message whether
    /// it is; a row that is not is contradicted by a message that says it is.
    ///
    /// # Errors
    /// Marks that contradict each other.
    pub fn of(&self, index: usize, own: Marks) -> Result<Marks> {
        let mut marks = own;
        for (name, each) in &self.each {
            if let Some(value) = each.get(index).filter(|value| !value.is_null()) {
                marks.add(name, &format!("{name}[{index}]"), value)?;
            }
        }
        let untrained = self.all.trained.clone().filter(|marked| !marked.value);
        merge(&mut marks.trained, untrained)?;
        if marks.weight.is_none() && marks.trained() != Some(false) {
            marks.weight.clone_from(&self.all.weight);
        }
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Messages;
    use super::super::query_response::QueryResponse;
    use super::super::row::tests::convert;
    use super::*;
    use apus_sdk::DatasetFormat;
    use serde_json::json;

    fn marks(fields: Value) -> Result<(Option<bool>, Option<f64>)> {
        let Value::Object(mut fields) = fields else {
            panic!("an object")
        };
        let marks = Marks::take(&mut fields)?;
        assert!(fields.values().all(Value::is_null));
        Ok((marks.trained(), marks.weight()))
    }

    #[test]
    fn every_mark_in_every_spelling() {
        for name in [
            "loss",
            "train",
            "training",
            "trainable",
            "weight",
            "loss_mask",
        ] {
            for (value, trained) in [
                (json!(false), false),
                (json!(true), true),
                (json!(0), false),
                (json!(1), true),
                (json!(0.0), false),
                (json!("False"), false),
                (json!("1"), true),
            ] {
                assert_eq!(marks(json!({name: value})), Ok((Some(trained), None)));
            }
            assert_eq!(marks(json!({name: null})), Ok((None, None)));
            for wrong in [
                json!(-1),
                json!("maybe"),
                json!([1]),
                json!({}),
                json!("NaN"),
                json!(1e300),
            ] {
                let error = marks(json!({name: wrong})).unwrap_err().to_string();
                assert!(
                    error.contains(&format!("`{name}` must be true, false")),
                    "{error}"
                );
            }
        }
        for name in ["weight", "loss_mask"] {
            assert_eq!(marks(json!({name: 0.5})), Ok((Some(true), Some(0.5))));
        }
        for name in ["loss", "train", "training", "trainable"] {
            let error = marks(json!({name: 0.5})).unwrap_err().to_string();
            assert!(error.contains("a weight is `loss_scale`"), "{error}");
        }
        assert_eq!(marks(json!({"loss_scale": 2})), Ok((None, Some(2.0))));
        assert_eq!(
            marks(json!({"loss_scale": 0})),
            Ok((Some(false), Some(0.0)))
        );
    }

    #[test]
    fn marks_that_contradict_each_other_are_an_error() {
        let both = |fields| marks(fields).unwrap_err().to_string();
        assert_eq!(
            both(json!({"weight": 0, "loss": true})),
            "`loss: true` and `weight: 0` contradict each other; leave one of them out"
        );
        for fields in [
            json!({"train": false, "training": true}),
            json!({"weight": 0.5, "loss": false}),
            json!({"weight": 0.5, "loss_scale": 2}),
            json!({"loss_scale": 0, "loss": true}),
        ] {
            assert!(both(fields).contains("contradict"));
        }
        for (fields, expected) in [
            (
                json!({"weight": 1, "loss": true, "loss_mask": 1}),
                (Some(true), None),
            ),
            (
                json!({"loss": false, "loss_scale": 2}),
                (Some(false), Some(2.0)),
            ),
            (
                json!({"weight": 0.5, "loss_scale": 0.5}),
                (Some(true), Some(0.5)),
            ),
        ] {
            assert_eq!(marks(fields), Ok(expected));
        }
    }

    /// `loss` and `loss_scale` of the messages that a row gives.
    fn of_row(format: &dyn DatasetFormat, row: Value) -> Vec<(Option<bool>, Option<f64>)> {
        let found = convert(format, row).unwrap();
        found
            .messages
            .iter()
            .map(|m| (m.loss, m.loss_scale))
            .collect()
    }

    fn two_rounds() -> Value {
        json!([{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2"}])
    }

    #[test]
    fn a_row_marks_all_of_its_messages_or_each() {
        let with = |name: &str, value: Value| {
            of_row(
                &Messages::default(),
                json!({"messages": two_rounds(), name: value}),
            )
        };
        let (no, yes) = ((Some(false), None), (Some(true), None));
        assert_eq!(with("loss_mask", json!([0, 0, 0, 1])), [no, no, no, yes]);
        assert_eq!(
            with("train", json!("[False, False, False, True]")),
            [no, no, no, yes]
        );
        assert_eq!(
            with("weight", json!([0, null, 0, 0.5])),
            [no, (None, None), no, (Some(true), Some(0.5))]
        );
        assert_eq!(with("train", json!(false)), [no; 4]);
        assert_eq!(with("train", json!(true)), [(None, None); 4]);
        assert_eq!(with("weight", json!(0.5)), [(None, Some(0.5)); 4]);
        let pairs = json!({"conversation": [{"human": "a", "assistant": "b", "weight": 0}, {"human": "c", "assistant": "d"}]});
        assert_eq!(
            of_row(&Messages::default(), pairs),
            [(None, None), no, (None, None), (None, None)]
        );
        let row = json!({"query": "q", "response": "r", "train": "0"});
        assert_eq!(of_row(&QueryResponse::default(), row), [no; 2]);
        let row = json!({"query": "q", "response": "r", "history": [["a", "b"]], "loss_mask": [0, 0, 0, 1]});
        assert_eq!(of_row(&QueryResponse::default(), row), [no, no, no, yes]);
    }

    #[test]
    fn marks_of_row_and_message_meet() {
        let error = |row| convert(&Messages::default(), row).unwrap_err().to_string();
        let bad = error(json!({"messages": two_rounds(), "loss_mask": [0, 1]}));
        assert!(
            bad.contains("column `loss_mask` has 2 marks for 4 messages"),
            "{bad}"
        );
        let answer = |key: &str, value: Value| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: value}]);
        let bad = error(json!({"messages": answer("loss", json!(true)), "train": false}));
        assert!(
            bad.contains("message 2: `loss: true` and `train: false` contradict"),
            "{bad}"
        );
        let bad = error(json!({"messages": answer("weight", json!(0)), "loss_mask": [0, 1]}));
        assert!(
            bad.contains("`weight: 0` and `loss_mask[1]: 1` contradict"),
            "{bad}"
        );
        let bad = error(json!({"messages": two_rounds(), "loss": 1.53}));
        assert!(
            bad.contains("found 1.53; a column that is no mark") && bad.contains("--columns"),
            "{bad}"
        );
        let row = json!({"messages": answer("loss", json!(false)), "train": true, "weight": 0.5});
        assert_eq!(of_row(&Messages::default(), row)[1], (Some(false), None));
        let row = json!({"messages": answer("loss_scale", json!(2)), "weight": 0.5});
        assert_eq!(of_row(&Messages::default(), row)[1], (None, Some(2.0)));
    }

    #[test]
    fn a_mark_in_a_place_that_has_none_is_an_error() {
        let call = json!({"function": {"name": "f", "arguments": {}, "weight": 0}});
        let bad = convert(
            &Messages::default(),
            json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}),
        );
        let bad = bad.unwrap_err().to_string();
        assert!(
            bad.contains("`messages[0].tool_calls[0].function.weight` says what is trained"),
            "{bad}"
        );
        let block = json!([{"type": "text", "text": "a", "train": false}]);
        let bad = convert(
            &Messages::default(),
            json!({"messages": [{"role": "assistant", "content": block}]}),
        );
        assert!(bad.unwrap_err().to_string().contains("content[0].train"));
    }
}
