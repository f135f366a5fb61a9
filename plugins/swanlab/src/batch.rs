//! Records on their way to the server, sorted by the request that carries them.

use super::framing::Reader;
use super::http::Failure;
use super::record::{
    Body, Column, Finish, Log, Media, Record, Save, Scalar, Timestamp, class, kind, save,
};
use super::values::{self, SYSTEM};
use prost::Message;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// The most records and bytes of a batch, which the sender keeps in memory.
const RECORDS: usize = 5000;
const BYTES: usize = 4 << 20;

/// The last entries that the server has, so that nothing is sent twice.
#[derive(Debug, Default)]
pub struct OnServer {
    /// Keys that were announced.
    pub columns: HashSet<String>,
    /// The last step of each key.
    pub steps: HashMap<String, i64>,
    /// The number of the last line.
    pub lines: i64,
    /// The number of the last line that was read, whether it had to be sent or not.
    pub read: i64,
}

impl OnServer {
    /// Samples of the machine that the server has.
    pub fn samples(&self) -> i64 {
        let system = self.steps.iter().filter(|(key, _)| key.starts_with(SYSTEM));
        system.map(|(_, step)| step + 1).max().unwrap_or(0)
    }

    /// Whether this step is later than all that the server has of the key; from now on it counts as sent.
    fn takes(&mut self, key: &str, step: i64) -> bool {
        match self.steps.get_mut(key) {
            Some(last) if step <= *last => false,
            Some(last) => {
                *last = step;
                true
            }
            None => {
                self.steps.insert(key.to_owned(), step);
                true
            }
        }
    }
}

/// A number as the server takes it.
#[derive(Debug, Serialize)]
pub struct Number {
    key: String,
    index: i64,
    data: Value,
    create_time: String,
}

/// A line as the server takes it.
#[derive(Debug, Serialize)]
pub struct Line {
    level: &'static str,
    epoch: i64,
    message: String,
    create_time: String,
}

/// A file, and where it goes.
#[derive(Debug)]
pub struct Blob {
    /// `media/text/001-9b533848.txt`
    pub path: String,
    /// Its media type.
    pub mime: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Texts and pictures as the server takes them, once their files are there.
#[derive(Debug, Serialize)]
pub struct Reference {
    key: String,
    index: i64,
    data: Vec<String>,
    more: Vec<Value>,
    create_time: String,
}

impl Reference {
    /// Whether it refers to this file.
    pub fn names(&self, path: &str) -> bool {
        self.data.iter().any(|name| name == path)
    }
}

/// Records of a piece of a file.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records about the whole run.
    pub profile: Vec<Value>,
    /// Keys that are new.
    pub columns: Vec<Value>,
    /// Numbers.
    pub numbers: Vec<Number>,
    /// Lines of the terminal.
    pub lines: Vec<Line>,
    /// Files.
    pub blobs: Vec<Blob>,
    /// The records that refer to them.
    pub references: Vec<Reference>,
    /// How the run ended.
    pub finish: Option<Finish>,
    /// Where the piece ends.
    pub end: u64,
    /// Records in it.
    pub records: usize,
    /// Those of them that the server has already.
    pub skipped: usize,
    /// Configurations that could not be understood.
    pub unreadable: usize,
}

/// How a file's own numbering fits into the run's.
#[derive(Debug, Clone, Copy)]
pub struct Offsets {
    /// Lines before this file.
    pub lines: i64,
    /// Samples of the machine before this file.
    pub samples: i64,
}

impl Batch {
    /// Takes records out of a file, as many as a batch holds, up to byte `limit`.
    pub fn read(
        reader: &mut Reader,
        limit: u64,
        known: &mut OnServer,
        offsets: Offsets,
        new_columns: bool,
    ) -> Result<Self, Failure> {
        let mut batch = Self::default();
        let mut bytes = 0;
        while batch.records < RECORDS && bytes < BYTES && reader.at() < limit {
            let next = reader.next();
            let next = next.map_err(|e| Failure::Invalid(format!("the run's file: {e}")))?;
            let Some(record) = next else { break };
            bytes += record.len();
            batch.records += 1;
            if let Ok(record) = Record::decode(&*record) {
                batch.add(record, known, offsets, new_columns);
            }
        }
        batch.end = reader.at();
        Ok(batch)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn add(&mut self, record: Record, known: &mut OnServer, offsets: Offsets, new: bool) {
        let time = record.timestamp;
        match record.body {
            Some(Body::Save(save)) => self.save(save),
            Some(Body::Column(column)) => self.column(&column, known, new),
            Some(Body::Scalar(scalar)) => self.scalar(scalar, time, known, offsets, new),
            Some(Body::Media(media)) => self.media(media, time, known, new),
            Some(Body::Log(log)) => self.line(log, time, known, offsets),
            Some(Body::Finish(finish)) => {
                known.read += i64::from(!finish.error.is_empty());
                if known.read > known.lines {
                    known.lines = known.read;
                    self.lines.push(Line {
                        level: "ERROR",
                        epoch: known.read,
                        message: finish.error.clone(),
                        create_time: text(finish.finished_at.or(time)),
                    });
                }
                self.finish = Some(finish);
            }
            Some(Body::Start(_)) | None => {}
        }
    }

    fn save(&mut self, save: Save) {
        let Some(payload) = save.payload else {
            self.unreadable += 1;
            return;
        };
        let text = String::from_utf8_lossy(&payload);
        let json = || serde_json::from_str::<Value>(&text).ok();
        let entry = match save.kind {
            save::CONFIG => json().map(|config| json!({"config": config})),
            save::METADATA => json().map(|metadata| json!({"metadata": metadata})),
            save::REQUIREMENTS => Some(json!({"requirements": text})),
            save::CONDA => Some(json!({"conda": text})),
            _ => None,
        };
        match entry {
            Some(entry) => self.profile.push(entry),
            None => self.unreadable += 1,
        }
    }

    fn column(&mut self, column: &Column, known: &mut OnServer, new: bool) {
        if known.columns.insert(column.key.clone()) {
            self.columns.push(column_body(column, new));
        }
    }

    fn scalar(
        &mut self,
        scalar: Scalar,
        time: Option<Timestamp>,
        known: &mut OnServer,
        offsets: Offsets,
        new: bool,
    ) {
        if !known.columns.contains(&scalar.key) {
            self.column(&guessed(&scalar.key, kind::SCALAR), known, new);
        }
        let index = match scalar.key.starts_with(SYSTEM) {
            true => scalar.step + offsets.samples,
            false => scalar.step,
        };
        if !known.takes(&scalar.key, index) {
            self.skipped += 1;
            return;
        }
        let number = scalar.value.map_or(0.0, |value| value.number);
        self.numbers.push(Number {
            key: scalar.key,
            index,
            // JSON has no NaN and no infinity; the server takes this word for each of them.
            data: match number.is_finite() {
                true => number.into(),
                false => "nan".into(),
            },
            create_time: text(scalar.timestamp.or(time)),
        });
    }

    fn media(&mut self, media: Media, time: Option<Timestamp>, known: &mut OnServer, new: bool) {
        if !known.columns.contains(&media.key) {
            self.column(&guessed(&media.key, media.kind), known, new);
        }
        if !known.takes(&media.key, media.step) {
            self.skipped += 1;
            return;
        }
        let folder = match media.kind {
            kind::IMAGE => "image",
            kind::TEXT => "text",
            // This tracker does not write such a record.
            _ => {
                self.unreadable += 1;
                return;
            }
        };
        let mut reference = Reference {
            key: media.key,
            index: media.step,
            data: Vec::new(),
            more: Vec::new(),
            create_time: text(media.timestamp.or(time)),
        };
        for item in media.value.unwrap_or_default().items {
            let Some(bytes) = item.payload else {
                self.unreadable += 1;
                continue;
            };
            let path = format!("media/{folder}/{}", item.filename);
            reference.data.push(path.clone());
            if !item.caption.is_empty() {
                reference.more.push(json!({"caption": item.caption}));
            }
            let mime = match item.filename.rsplit('.').next() {
                Some("png") => "image/png",
                Some("jpg" | "jpeg") => "image/jpeg",
                _ => "text/plain",
            };
            self.blobs.push(Blob { path, mime, bytes });
        }
        if !reference.data.is_empty() {
            self.references.push(reference);
        }
    }

    fn line(&mut self, log: Log, time: Option<Timestamp>, known: &mut OnServer, offsets: Offsets) {
        let epoch = log.epoch + offsets.lines;
        known.read = known.read.max(epoch);
        if epoch <= known.lines {
            self.skipped += 1;
            return;
        }
        known.lines = epoch;
        self.lines.push(Line {
            level: if log.level == 0 { "INFO" } else { "ERROR" },
            epoch,
            message: log.line,
            create_time: text(log.timestamp.or(time)),
        });
    }
}

fn text(time: Option<Timestamp>) -> String {
    time.unwrap_or_else(Timestamp::now).text()
}

/// The column of a key that was not announced.
fn guessed(key: &str, kind: i32) -> Column {
    if key.starts_with(SYSTEM) {
        return values::system_column(key);
    }
    Column {
        class: class::CUSTOM,
        kind,
        key: key.to_owned(),
        section_name: values::section(key, 0).unwrap_or_default().to_owned(),
        ..Column::default()
    }
}

/// A column as the server takes it; older servers want to know more.
fn column_body(column: &Column, new: bool) -> Value {
    let system = column.class == class::SYSTEM;
    let form = match column.kind {
        kind::IMAGE => "IMAGE",
        kind::TEXT => "TEXT",
        _ => "FLOAT",
    };
    let mut body = Map::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            body.insert(name.to_owned(), value.into());
        }
    };
    put("key", &column.key);
    put("type", if system && new { "SYSTEM" } else { form });
    put("sectionName", &column.section_name);
    if !new {
        put("name", &column.name);
        put("chartName", &column.chart_name);
        put("chartIndex", &column.chart_index);
        put("metricName", &column.metric_name);
    }
    if system && !new {
        put("class", "SYSTEM");
        put("sectionType", "SYSTEM");
    }
    if system
        && !new
        && let Some(range) = column.y_range
    {
        body.insert("yRange".to_owned(), json!([range.min, range.max]));
    }
    Value::Object(body)
}
