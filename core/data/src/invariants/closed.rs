//! The closed world of rows: nothing of a row is dropped in silence, and a mark of what is trained is obeyed.

use crate::chat::Encoder;
use apus_sdk::{Base, Converted, DatasetFormat, Row, Sample, Unread};
use serde_json::{Map, Value};

/// A key that no dataset has.
const STRANGE: &str = "what nobody knows";

/// A step into a value.
#[derive(Clone, PartialEq)]
enum Step {
    Key(String),
    Item(usize),
}

/// What a format says it did not read changes nothing where it stands, and a key that nobody knows is carried along,
/// refused or named, in whatever object of the row it stands.
///
/// # Panics
/// It does, or it is not.
pub fn nothing_in_silence(row: &Row, format: &dyn DatasetFormat) {
    let whole = Value::Object(row.clone());
    let Some((samples, unread)) = convert(&whole, format) else {
        return;
    };
    let mut objects = Vec::new();
    walk(&whole, &mut Vec::new(), &mut objects);
    for (place, keys) in &objects {
        for key in keys {
            let path = format!("{}{key}", before(place));
            if unread.iter().any(|unread| unread.path == path) {
                let mut without = whole.clone();
                object(&mut without, place).shift_remove(key);
                let found = convert(&without, format);
                let same = found.is_some_and(|(without, _)| without == samples);
                assert!(same || is_ambiguous(place, key), "{path} is used");
            }
        }
        let mut with = whole.clone();
        object(&mut with, place).insert(STRANGE.to_owned(), Value::Bool(true));
        let path = format!("{}{STRANGE}", before(place));
        if let Some((with, unread)) = convert(&with, format) {
            let named = unread.iter().any(|unread| path.starts_with(&unread.path));
            assert!(named || with != samples, "{path} is dropped");
        }
    }
}

/// A row that says that it is not trained is not.
///
/// # Panics
/// It is.
pub fn untrained(row: &Row, format: &dyn DatasetFormat, encoder: &Encoder) {
    let mut row = row.clone();
    row.insert("train".to_owned(), Value::Bool(false));
    let Some((samples, _)) = convert(&Value::Object(row), format) else {
        return;
    };
    for sample in samples {
        // Whoever trains everything trains what stands around messages, too.
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
fn walk(value: &Value, place: &mut Vec<Step>, objects: &mut Vec<(Vec<Step>, Vec<String>)>) {
    match value {
        Value::Object(fields) => {
            objects.push((place.clone(), fields.keys().cloned().collect()));
            for (key, value) in fields {
                place.push(Step::Key(key.clone()));
                walk(value, place, objects);
                place.pop();
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                place.push(Step::Item(i));
                walk(value, place, objects);
                place.pop();
            }
        }
        _ => {}
    }
}

/// The beginning of the paths of an object's keys.
fn before(place: &[Step]) -> String {
    let mut path = String::new();
    for step in place {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    match place {
        [] => path,
        _ => path + ".",
    }
}

/// Whether the path of this key may be that of another, or begins with no name at all.
fn is_ambiguous(place: &[Step], key: &str) -> bool {
    let odd = |key: &str| key.is_empty() || key.contains(['.', '[']);
    odd(key)
        || place
            .iter()
            .any(|step| matches!(step, Step::Key(key) if odd(key)))
}

fn object<'a>(value: &'a mut Value, place: &[Step]) -> &'a mut Map<String, Value> {
    let found = place.iter().fold(value, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Item(index) => &mut value[*index],
    });
    found.as_object_mut().expect("an object stands there")
}
