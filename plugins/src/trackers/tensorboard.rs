//! TensorBoard's event files, in `runs` under the run's folder, by the names of transformers' `TensorBoardCallback`:
//! `train/loss`, `eval/loss`.
//!
//! A file is a sequence of TFRecords (a length, its checksum, the bytes, their checksum), each an `Event` of TensorFlow's
//! protocol buffers, of which only the fields that TensorBoard reads for numbers, texts and pictures are declared here.

use apus_sdk::{EndState, Error, Result, RunInfo, Tracker, register};
use prost::Message;
use serde_json::{Map, Value};
use std::fs::{File, create_dir_all};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

apus_sdk::options! {
    struct TensorBoard {
        /// Folder of the event files, inside the run's folder unless it is absolute.
        logging_dir: String = "runs".to_owned(),
    }
    state {
        file: Option<File>,
    }
}

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Entry>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Strings>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

/// `tensorflow.Summary.Image`.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// Channels: 3 is RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// `tensorflow.TensorProto` of strings.
#[derive(Clone, PartialEq, Message)]
struct Strings {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

/// `tensorflow.TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

/// `tensorflow.TensorShapeProto.Dim`.
#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// `tensorflow.SummaryMetadata`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorflow.SummaryMetadata.PluginData`.
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// `DT_STRING` of `tensorflow.DataType`.
const DT_STRING: i32 = 7;

/// The checksum as TFRecords hold it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A TFRecord.
fn record(event: &Event) -> Vec<u8> {
    let body = event.encode_to_vec();
    let length = (body.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(body.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(&body);
    out.extend(masked(&body).to_le_bytes());
    out
}

fn text(tag: String, text: &str) -> Entry {
    let shape = Shape {
        dim: vec![Dim { size: 1 }],
    };
    let plugin = PluginData {
        plugin_name: "text".to_owned(),
    };
    Entry {
        tag,
        tensor: Some(Strings {
            dtype: DT_STRING,
            shape: Some(shape),
            string_val: vec![text.as_bytes().to_vec()],
        }),
        metadata: Some(Metadata {
            plugin_data: Some(plugin),
        }),
        ..Entry::default()
    }
}

/// A picture with the sizes that stand at the head of a PNG.
fn image(tag: String, png: &[u8]) -> Result<Entry> {
    let size = |at: usize| Some(i32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    let (Some(width), Some(height), true) = (size(16), size(20), png.starts_with(b"\x89PNG"))
    else {
        return Err(Error::new(format!("the picture {tag} is no PNG")));
    };
    Ok(Entry {
        tag,
        image: Some(Image {
            height,
            width,
            colorspace: 3,
            encoded_image_string: png.to_vec(),
        }),
        ..Entry::default()
    })
}

impl TensorBoard {
    fn write(&mut self, step: u64, value: Vec<Entry>) -> Result<()> {
        if value.is_empty() {
            return Ok(());
        }
        self.put(&Event {
            wall_time: seconds(),
            step: i64::try_from(step).unwrap_or(i64::MAX),
            file_version: None,
            summary: Some(Summary { value }),
        })
    }

    fn put(&mut self, event: &Event) -> Result<()> {
        let file = self.file.as_mut();
        let file = file.ok_or_else(|| Error::new("log before start"))?;
        Ok(file.write_all(&record(event))?)
    }
}

fn seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |time| time.as_secs_f64())
}

impl Tracker for TensorBoard {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let dir = run.dir.join(Path::new(&self.logging_dir));
        let fails = |e| Error::new(format!("{}: {e}", dir.display()));
        create_dir_all(&dir).map_err(fails)?;
        let name = format!(
            "events.out.tfevents.{}.apus.{}.0",
            seconds() as u64,
            std::process::id()
        );
        self.file = Some(File::create(dir.join(name)).map_err(fails)?);
        self.put(&Event {
            wall_time: seconds(),
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        })?;
        let config = serde_json::to_string_pretty(&run.config)?;
        self.write(
            run.resumed_at,
            vec![text("args".to_owned(), &fenced(&config))],
        )
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let numbers = values.iter().filter_map(|(name, value)| {
            Some(Entry {
                tag: apus_sdk::log_path(name),
                simple_value: Some(value.as_f64()? as f32),
                ..Entry::default()
            })
        });
        self.write(step, numbers.collect())
    }

    fn text(&mut self, step: u64, name: &str, value: &str) -> Result<()> {
        self.write(step, vec![text(name.to_owned(), &fenced(value))])
    }

    fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        self.write(step, vec![image(name.to_owned(), png)?])
    }

    fn finish(&mut self, _end: &EndState) -> Result<()> {
        match &mut self.file {
            Some(file) => Ok(file.sync_all()?),
            None => Ok(()),
        }
    }
}

/// TensorBoard takes texts for Markdown: indented by four, one is shown as it is.
fn fenced(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

register! {
    /// TensorBoard's event files: numbers, texts, pictures, the configuration.
    Tracker, "tensorboard", TensorBoard
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing;
    use serde_json::json;

    /// The events of a file, its checksums checked; what is cut off at the end is left out.
    fn read(bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while rest.len() >= 12 {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let sum = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(masked(&rest[..8]), sum(8));
            if rest.len() < length + 16 {
                break;
            }
            let body = &rest[12..12 + length];
            assert_eq!(masked(body), sum(12 + length));
            events.push(Event::decode(body).unwrap());
            rest = &rest[length + 16..];
        }
        events
    }

    #[test]
    fn checksums_are_castagnoli_masked() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // Turned right by 15 bits, plus 0xa282ead8.
        assert_eq!(masked(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn what_is_no_png_is_refused() {
        let error = image("loss".to_owned(), b"GIF89a").unwrap_err();
        assert_eq!(error.to_string(), "the picture loss is no PNG");
    }

    #[test]
    fn numbers_and_texts_come_back_however_the_file_is_cut() {
        let dir = std::env::temp_dir().join(format!("apus-tensorboard-{}", std::process::id()));
        create_dir_all(&dir).unwrap();
        let mut tracker = testing::make::<dyn Tracker>("tensorboard", json!({})).unwrap();
        let logs = [
            (
                1,
                json!({"loss": 2.5, "eval_loss": 2.0, "memory(GiB)": 3, "elapsed_time": "1s"}),
            ),
            (2, json!({"loss": 1.5})),
        ];
        testing::track(&mut *tracker, &dir, &logs).unwrap();
        let file = std::fs::read_dir(dir.join("runs")).unwrap().next().unwrap();
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();

        let events = read(&bytes);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let numbers: Vec<_> = events
            .iter()
            .flat_map(|event| {
                let entries = event.summary.iter().flat_map(|s| &s.value);
                entries.map(|e| (event.step, e.tag.as_str(), e.simple_value))
            })
            .filter(|(.., value)| value.is_some())
            .collect();
        let wanted = [
            (1, "train/loss", Some(2.5)),
            (1, "eval/loss", Some(2.0)),
            (1, "train/memory(GiB)", Some(3.0)),
            (2, "train/loss", Some(1.5)),
        ];
        assert_eq!(numbers, wanted);
        let mut entries = events
            .iter()
            .flat_map(|e| e.summary.iter().flat_map(|s| &s.value));
        let dot = entries.find_map(|entry| entry.image.clone()).unwrap();
        assert_eq!((dot.width, dot.height), (1, 1));
        assert_eq!(dot.encoded_image_string, testing::DOT);
        for end in 0..bytes.len() {
            assert!(events.starts_with(&read(&bytes[..end])));
        }
    }
}
