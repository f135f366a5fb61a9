//! The records of a run's file: `swanlab.record.v1`, as far as this tracker writes and reads it.

use prost::{Message, Oneof};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Numbers of records that a file has once; others count from 1.
pub mod number {
    /// The first record.
    pub const START: i64 = -1;
    /// The last record.
    pub const FINISH: i64 = -2;
    /// The configuration.
    pub const CONFIG: i64 = -3;
    /// The machine and the command.
    pub const METADATA: i64 = -4;
}

/// What to do with a run id that the server has already.
pub mod resume {
    /// Begin a new run.
    pub const NEVER: i32 = 0;
    /// Continue that run.
    pub const ALLOW: i32 = 1;
    /// Continue that run; an error if the server does not have it.
    pub const MUST: i32 = 2;
}

/// How a run ended.
pub mod state {
    /// It finished.
    pub const FINISHED: i32 = 1;
    /// It ended with an error.
    pub const CRASHED: i32 = 2;
    /// Its user stopped it.
    pub const ABORTED: i32 = 3;
}

/// The type of the values of a key.
pub mod kind {
    /// Numbers.
    pub const SCALAR: i32 = 1;
    /// Pictures.
    pub const IMAGE: i32 = 2;
    /// Texts.
    pub const TEXT: i32 = 4;
}

/// Whether a column is of the run or of the machine.
pub mod class {
    /// The run's.
    pub const CUSTOM: i32 = 1;
    /// The machine's.
    pub const SYSTEM: i32 = 2;
}

/// The content of a [`Save`].
pub mod save {
    /// The configuration.
    pub const CONFIG: i32 = 1;
    /// The machine.
    pub const METADATA: i32 = 2;
    /// A list of packages.
    pub const REQUIREMENTS: i32 = 3;
    /// An environment of conda.
    pub const CONDA: i32 = 4;
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds of the current second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// The current time, to the microsecond.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or(Duration::ZERO);
        Self {
            seconds: since.as_secs().cast_signed(),
            nanos: (since.subsec_micros() * 1000).cast_signed(),
        }
    }

    /// `2026-11-23T22:31:06.546555Z`.
    pub fn text(&self) -> String {
        let nanos = u32::try_from(self.nanos).unwrap_or(0);
        let time = chrono::DateTime::from_timestamp(self.seconds, nanos).unwrap_or_default();
        time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    }
}

/// A record.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Its number, which no other record of the file has.
    #[prost(int64, tag = "1")]
    pub num: i64,
    /// When it was written.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// Its content.
    #[prost(oneof = "Body", tags = "10, 11, 12, 13, 14, 16, 20")]
    pub body: Option<Body>,
}

/// The content of a record.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// The run begins.
    #[prost(message, tag = "10")]
    Start(Start),
    /// The run is over.
    #[prost(message, tag = "11")]
    Finish(Finish),
    /// A key that is used from here on.
    #[prost(message, tag = "12")]
    Column(Column),
    /// A number.
    #[prost(message, tag = "13")]
    Scalar(Scalar),
    /// A text or a picture.
    #[prost(message, tag = "14")]
    Media(Media),
    /// A line of the terminal.
    #[prost(message, tag = "16")]
    Log(Log),
    /// A text about the whole run.
    #[prost(message, tag = "20")]
    Save(Save),
}

/// `StartRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Start {
    #[prost(string, tag = "1")]
    pub project: String,
    #[prost(string, tag = "2")]
    pub workspace: String,
    #[prost(bool, tag = "3")]
    pub public: bool,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "5")]
    pub description: String,
    #[prost(string, repeated, tag = "6")]
    pub tags: Vec<String>,
    #[prost(string, tag = "7")]
    pub group: String,
    #[prost(string, tag = "8")]
    pub job_type: String,
    #[prost(string, tag = "9")]
    pub color: String,
    #[prost(string, tag = "10")]
    pub id: String,
    #[prost(int32, tag = "11")]
    pub resume: i32,
    #[prost(message, optional, tag = "12")]
    pub started_at: Option<Timestamp>,
}

/// `FinishRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Finish {
    #[prost(int32, tag = "1")]
    pub state: i32,
    #[prost(string, tag = "2")]
    pub error: String,
    #[prost(message, optional, tag = "3")]
    pub finished_at: Option<Timestamp>,
}

/// `ColumnRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Column {
    #[prost(int32, tag = "1")]
    pub class: i32,
    #[prost(int32, tag = "2")]
    pub kind: i32,
    #[prost(string, tag = "3")]
    pub key: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "5")]
    pub section_name: String,
    #[prost(int32, tag = "6")]
    pub section_type: i32,
    #[prost(message, optional, tag = "7")]
    pub y_range: Option<YRange>,
    #[prost(string, tag = "8")]
    pub chart_index: String,
    #[prost(string, tag = "9")]
    pub chart_name: String,
    #[prost(string, tag = "11")]
    pub metric_name: String,
}

/// `YRange`.
#[derive(Clone, Copy, PartialEq, Message)]
#[allow(missing_docs)]
pub struct YRange {
    #[prost(double, optional, tag = "1")]
    pub min: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub max: Option<f64>,
}

/// `ScalarRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Scalar {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, optional, tag = "4")]
    pub timestamp: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub value: Option<ScalarValue>,
}

/// `ScalarValue`.
#[derive(Clone, Copy, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ScalarValue {
    #[prost(double, tag = "1")]
    pub number: f64,
}

/// `MediaRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Media {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, optional, tag = "4")]
    pub timestamp: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub value: Option<MediaValue>,
}

/// `MediaValue`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct MediaValue {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<MediaItem>,
}

/// `MediaItem`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct MediaItem {
    #[prost(string, tag = "1")]
    pub filename: String,
    #[prost(string, tag = "2")]
    pub sha256: String,
    #[prost(int64, tag = "3")]
    pub size: i64,
    #[prost(string, tag = "4")]
    pub caption: String,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub payload: Option<Vec<u8>>,
}

/// `LogRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Log {
    #[prost(string, tag = "1")]
    pub line: String,
    /// 0 for information, 1 for an error.
    #[prost(int32, tag = "2")]
    pub level: i32,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
    /// Number of the line, from 1.
    #[prost(int64, tag = "4")]
    pub epoch: i64,
}

/// `SaveRecord`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Save {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub source_path: String,
    #[prost(string, tag = "3")]
    pub target_path: String,
    #[prost(int32, tag = "4")]
    pub policy: i32,
    #[prost(int32, tag = "5")]
    pub kind: i32,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub payload: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let time = Timestamp {
            seconds: 1_795_473_066,
            nanos: 546_555_000,
        };
        assert_eq!(time.text(), "2026-11-23T22:31:06.546555Z");
        assert!(Timestamp::now().seconds > time.seconds - 100 * 365 * 86_400);
    }
}
