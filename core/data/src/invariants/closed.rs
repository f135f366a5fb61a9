//! Rows are a closed world: nothing of a row is dropped in silence, and a mark of what is trained is obeyed.

use crate::chat::Encoder;
use apus_sdk::{Base, Converted, DatasetFormat, Row, Sample, Unread};
use serde_json::{Map, Value};

/// A key that no dataset has.
const UNKNOWN_KEY: &str = "what nobody knows";

/// A step into a value.
#[derive(Clone, PartialEq)]
enum Step {
    Key(String),
    Item(usize),
}

/// A key that a format says it did not read changes nothing if it is left out. A key that nobody knows is carried along,
/// refused or named, in every object of the row.
///
/// # Panics
/// One of the two does not hold.
pub fn nothing_in_silence(row: &Row, format: &dyn DatasetFormat) {
    let whole = Value::Object(row.clone());
    let Some((samples, unread)) = convert(&whole, format) else {
        return;
    };
    let mut objects = Vec::new();
    walk(&whole, &mut Vec::new(), &mut objects);
    for (steps, keys) in &objects {
        for key in keys {
            let path = format!("{}{key}", path_prefix(steps));
            if unread.iter().any(|unread| unread.path == path) {
                let mut without = whole.clone();
                object(&mut without, steps).shift_remove(key);
                let found = convert(&without, format);
                let same = found.is_some_and(|(without, _)| without == samples);
                assert!(same || is_ambiguous(steps, key), "{path} is used");
            }
        }
        let mut with = whole.clone();
        object(&mut with, steps).insert(UNKNOWN_KEY.to_owned(), Value::Bool(true));
        let path = format!("{}{UNKNOWN_KEY}", path_prefix(steps));
        if let Some((with, unread)) = convert(&with, format) {
            let named = unread.iter().any(|unread| path.starts_with(&unread.path));
            assert!(named || with != samples, "{path} is dropped");
        }
    }
}

/// A row that says that it is not trained is not trained.
///
/// # Panics
/// It is trained.
pub fn untrained(row: &Row, format: &dyn DatasetFormat, encoder: &Encoder) {
    let mut row = row.clone();
    row.insert("train".to_owned(), Value::Bool(false));
    let Some((samples, _)) = convert(&Value::Object(row), format) else {
        return;
    };
    for sample in samples {
        // The base strategy `all` trains the frames around messages, too.
        let all = encoder.scales().base() == Base::All;
        if let (false, Ok(encoded)) = (all, encoder.encode(&sample)) {
            assert_eq!(encoded.targets(), 0);
        }
    }
}

fn convert(row: &Value, format: &dyn DatasetFormat) -> Option<(Vec<Sample>, Vec<Unread>)> {
    match format.convert_text_noting(&row.to_string()) {
        Ok(Converted {
            samples,
            unread: Some(unread),
        }) => Some((samples, unread)),
        _ => None,
    }
}

/// Every object in a value, with its keys.
fn walk(value: &Value, steps: &mut Vec<Step>, objects: &mut Vec<(Vec<Step>, Vec<String>)>) {
    match value {
        Value::Object(fields) => {
            objects.push((steps.clone(), fields.keys().cloned().collect()));
            for (key, value) in fields {
                steps.push(Step::Key(key.clone()));
                walk(value, steps, objects);
                steps.pop();
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                steps.push(Step::Item(i));
                walk(value, steps, objects);
                steps.pop();
            }
        }
        _ => {}
    }
}

/// The path of an object, as the paths of its keys begin.
fn path_prefix(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    match steps {
        [] => path,
        _ => path + ".",
    }
}

/// Whether another key may have the same path as this one, or the path begins without a name.
fn is_ambiguous(steps: &[Step], key: &str) -> bool {
    let odd = |key: &str| key.is_empty() || key.contains(['.', '[']);
    odd(key)
        || steps
            .iter()
            .any(|step| matches!(step, Step::Key(key) if odd(key)))
}

/// The object at these steps.
fn object<'a>(value: &'a mut Value, steps: &[Step]) -> &'a mut Map<String, Value> {
    let found = steps.iter().fold(value, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Item(index) => &mut value[*index],
    });
    found.as_object_mut().expect("an object stands there")
}
