//! Rows that go to a format and to scales together become what they become alone.

mod data_common;

use apus_components::registry::{self, Spec};
use apus_data::chat::{Chain, EncodeOptions, Encoder, dialect::harmony::Harmony};
use apus_data::data::{Dataset, Formats, PrepareOptions, Record, Truncation, prepare};
use apus_sdk::{
    Base, Converted, DatasetFormat, LossScale, Piece, Result, Row, Sample, Segment, Turn,
};
use data_common::tiny_tokenizer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A component that takes batches, if it is told to, and the longest one that it got.
struct Together<T: ?Sized> {
    inner: Box<T>,
    batches: bool,
    longest: Arc<AtomicUsize>,
}

impl DatasetFormat for Together<dyn DatasetFormat> {
    fn recognises(&self, columns: &[&str]) -> bool {
        self.inner.recognises(columns)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        self.inner.convert(row)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        self.inner.convert_noting(row)
    }

    fn takes_batches(&self) -> bool {
        self.batches
    }

    fn convert_texts_noting(&self, texts: &[&str]) -> Vec<Result<Converted>> {
        self.longest.fetch_max(texts.len(), Ordering::Relaxed);
        let convert = |text: &&str| self.inner.convert_text_noting(text);
        texts.iter().map(convert).collect()
    }
}

impl LossScale for Together<dyn LossScale> {
    fn base(&self) -> Option<Base> {
        self.inner.base()
    }

    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        if text.contains("fails") {
            return Err(format!("cannot weigh {text:?}").into());
        }
        let query = turn.query.unwrap_or_default();
        let found = self.inner.segments(text, turn)?;
        let weigh =
            |segment: Segment| Segment::new(segment.text, segment.weight + query.len() as f64);
        Ok(found.into_iter().map(weigh).collect())
    }

    fn takes_batches(&self) -> bool {
        self.batches
    }

    fn segments_of_all(&self, pieces: &[Piece]) -> Vec<Result<Vec<Segment>>> {
        self.longest.fetch_max(pieces.len(), Ordering::Relaxed);
        let segments = |piece| self.segments_of(piece);
        pieces.iter().map(segments).collect()
    }
}

/// What becomes of rows, or the error, and the longest batches of the format and of the scale.
fn prepared(rows: &[String], batches: bool) -> (std::result::Result<Dataset, String>, [usize; 2]) {
    apus_plugins::link();
    let longest = [0, 1].map(|_| Arc::new(AtomicUsize::new(0)));
    let format = Together {
        inner: registry::build::<dyn DatasetFormat>(&Spec::named("messages")).unwrap(),
        batches,
        longest: Arc::clone(&longest[0]),
    };
    let built_in = |name: &str| registry::build::<dyn LossScale>(&Spec::named(name)).unwrap();
    let scale = Together {
        inner: built_in("hermes"),
        batches,
        longest: Arc::clone(&longest[1]),
    };
    let chain = Chain::new(vec![
        (
            "ignore_empty_think".to_owned(),
            built_in("ignore_empty_think"),
        ),
        ("together".to_owned(), Box::new(scale)),
    ]);
    let options = EncodeOptions::default();
    let encoder = Encoder::new(tiny_tokenizer(), Harmony::native(), chain.unwrap(), options);
    let formats = Formats::new(
        vec![("messages".to_owned(), Box::new(format))],
        Some("messages"),
    );
    let records: Vec<Record> = (1..)
        .zip(rows)
        .map(|(line, text)| Record {
            source: "rows.jsonl".into(),
            line,
            text: text.clone(),
            format: None,
        })
        .collect();
    let options = PrepareOptions {
        max_length: Some(40),
        truncation: Truncation::Split,
        ..PrepareOptions::default()
    };
    let found = prepare(
        &records,
        &formats.unwrap(),
        &encoder.unwrap(),
        &options,
        &|_| {},
    );
    (
        found.map_err(|error| format!("{error:#}")),
        longest.map(|longest| longest.load(Ordering::Relaxed)),
    )
}

fn rows() -> Vec<String> {
    let kinds = [
        r#"{"messages": [{"role": "user", "content": "N?"}, {"role": "assistant", "content": "N."}]}"#,
        r#"{"messages": [{"role": "user", "content": "N?"}, {"role": "assistant", "content": "<think>\n\n</think>\n\nN."}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call> done, done, done, done, done, done, done, done, done, done"}]}"#,
        r#"{"messages": [{"role": "user", "content": "N?"}, {"role": "assistant", "content": ""}]}"#,
        r#"{"messages": [{"role": "nobody", "content": "N"}]}"#,
        r#"{"messages": 7}"#,
        r#"{"messages": [{"role": "user", "content": "N?"}, {"role": "assistant", "content": "N", "loss": false}, {"role": "user", "content": "N?"}, {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}]}"#,
        r#"{"messages": [{"role": "user", "content": "N?"}, {"role": "assistant", "content": 5}]}"#,
    ];
    let numbered = (0..200).map(|i| kinds[i % kinds.len()].replace('N', &i.to_string()));
    numbered.collect()
}

#[test]
fn together_is_as_alone() {
    let (alone, longest) = prepared(&rows(), false);
    assert_eq!(longest, [0, 0]);
    let (together, [rows, texts]) = prepared(&rows(), true);
    assert!(rows > 30 && texts > 30, "{rows} {texts}");
    let alone = alone.unwrap();
    assert!(alone.samples.len() > 50);
    assert_eq!(alone, together.unwrap());
}

#[test]
fn the_first_text_that_cannot_be_weighed_stops_everything() {
    let mut rows = rows();
    for line in [101, 120] {
        rows[line] = format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "fails {line}"}}]}}"#
        );
    }
    let alone = prepared(&rows, false).0.unwrap_err();
    assert!(
        alone.contains("rows.jsonl:102: ") && alone.contains("cannot weigh \"fails 101\""),
        "{alone}"
    );
    assert_eq!(alone, prepared(&rows, true).0.unwrap_err());
}
