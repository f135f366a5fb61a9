//! The run's file: everything is written here first, and the sender reads it from here.
//!
//! `swanlog/run-{time}-{id}/run-{id}.swanlab`, in the format that `swanlab sync` reads. The records of one
//! call of the tracker are written at once, so that a run that is killed loses nothing that was logged.

use super::framing::{HEADER, frame};
use super::record::{
    Body, Column, Finish, Log, Media, MediaItem, MediaValue, Record, Save, Scalar,
};
use super::record::{ScalarValue, Start, Timestamp, class, kind, number};
use super::values::{digest, section, system_column};
use prost::Message;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file of a run in progress.
pub struct Store {
    /// Its folder.
    dir: PathBuf,
    file: File,
    /// The end of the file, with the bytes that are not written yet.
    end: u64,
    /// The bytes that are not written yet.
    buffer: Vec<u8>,
    /// The position in the file at which they begin.
    written: u64,
    /// A record on its way into the buffer.
    record: Vec<u8>,
    next: i64,
    columns: HashSet<String>,
    lines: i64,
    samples: i64,
    /// Which keys go to one section of the page.
    rule: i64,
}

/// The file's name inside a run's folder.
pub fn file_name(id: &str) -> String {
    format!("run-{id}.swanlab")
}

impl Store {
    /// Makes the folder and the file, with the record that begins it.
    pub fn create(log_dir: &Path, start: Start, rule: i64) -> io::Result<Self> {
        fs::create_dir_all(log_dir)?;
        let ignore = log_dir.join(".gitignore");
        if !ignore.exists() {
            fs::write(ignore, "*")?;
        }
        let dir = new_dir(log_dir, &start.id)?;
        let path = dir.join(file_name(&start.id));
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(path)?;
        let mut store = Self {
            dir,
            file,
            end: HEADER.len() as u64,
            buffer: HEADER.to_vec(),
            written: 0,
            record: Vec::new(),
            next: 1,
            columns: HashSet::new(),
            lines: 0,
            samples: 0,
            rule,
        };
        store.put(number::START, Body::Start(start));
        store.flush()?;
        Ok(store)
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the file ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn put(&mut self, num: i64, body: Body) {
        let record = Record {
            num,
            timestamp: Some(Timestamp::now()),
            body: Some(body),
        };
        self.record.clear();
        // A vector takes any length.
        let _ = record.encode(&mut self.record);
        self.end = frame(self.end, &self.record, &mut self.buffer);
    }

    fn add(&mut self, body: Body) {
        let num = self.next;
        self.next += 1;
        self.put(num, body);
    }

    /// Writes the records that were added. If that fails, the file stays as it was: these records are lost, and later ones
    /// are not.
    pub fn flush(&mut self) -> io::Result<()> {
        let done = self.file.write_all(&self.buffer);
        self.buffer.clear();
        match done {
            Ok(()) => self.written = self.end,
            Err(_) => {
                // Removes a record that may have been written in part.
                let _ = self.file.set_len(self.written);
                self.end = self.written;
            }
        }
        done
    }

    /// A text about the whole run; `num` and `kind` belong together.
    pub fn save(&mut self, num: i64, kind: i32, name: &str, payload: String) {
        self.put(
            num,
            Body::Save(Save {
                name: name.to_owned(),
                source_path: format!("files/{name}"),
                target_path: name.to_owned(),
                policy: 0,
                kind,
                payload: Some(payload.into_bytes()),
            }),
        );
    }

    /// A number of a step.
    pub fn scalar(&mut self, key: &str, step: u64, number: f64, now: Timestamp) {
        if !self.columns.contains(key) {
            self.column(key, kind::SCALAR);
        }
        self.add(Body::Scalar(Scalar {
            key: key.to_owned(),
            step: step.cast_signed(),
            kind: kind::SCALAR,
            timestamp: Some(now),
            value: Some(ScalarValue { number }),
        }));
    }

    /// Numbers of the machine, by the server's names.
    pub fn system(&mut self, values: &[(String, f64)]) {
        let now = Timestamp::now();
        for (key, number) in values {
            if self.columns.insert(key.clone()) {
                self.add(Body::Column(system_column(key)));
            }
            self.scalar(key, self.samples.cast_unsigned(), *number, now);
        }
        self.samples += i64::from(!values.is_empty());
    }

    /// A text or a picture.
    pub fn media(&mut self, key: &str, step: u64, kind: i32, payload: Vec<u8>) {
        if !self.columns.contains(key) {
            self.column(key, kind);
        }
        let sha256 = digest(&payload);
        let ending = match kind {
            kind::IMAGE => "png",
            _ => "txt",
        };
        let item = MediaItem {
            filename: format!("{step:03}-{}.{ending}", &sha256[..8]),
            sha256,
            size: payload.len() as i64,
            caption: String::new(),
            payload: Some(payload),
        };
        self.add(Body::Media(Media {
            key: key.to_owned(),
            step: step.cast_signed(),
            kind,
            timestamp: Some(Timestamp::now()),
            value: Some(MediaValue { items: vec![item] }),
        }));
    }

    /// A line of the terminal.
    pub fn line(&mut self, error: bool, line: String) {
        self.lines += 1;
        let epoch = self.lines;
        self.add(Body::Log(Log {
            line,
            level: i32::from(error),
            timestamp: Some(Timestamp::now()),
            epoch,
        }));
    }

    /// The end of the run; on disk when this returns.
    pub fn finish(&mut self, state: i32, error: String) -> io::Result<()> {
        let finish = Finish {
            state,
            error,
            finished_at: Some(Timestamp::now()),
        };
        self.put(number::FINISH, Body::Finish(finish));
        self.flush()?;
        self.file.sync_all()
    }

    fn column(&mut self, key: &str, kind: i32) {
        self.columns.insert(key.to_owned());
        let column = Column {
            class: class::CUSTOM,
            kind,
            key: key.to_owned(),
            name: key.to_owned(),
            section_name: section(key, self.rule).unwrap_or_default().to_owned(),
            section_type: 3,
            ..Column::default()
        };
        self.add(Body::Column(column));
    }
}

/// `run-{time}-{id}`, made now; two runs of a second get different ones.
fn new_dir(log_dir: &Path, id: &str) -> io::Result<PathBuf> {
    let mut time = chrono::Local::now();
    loop {
        let dir = log_dir.join(format!("run-{}-{id}", time.format("%Y%m%d_%H%M%S")));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                time += chrono::Duration::seconds(1);
            }
            made => return made.map(|()| dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::framing::Reader;
    use super::*;

    #[test]
    fn what_cannot_be_written_does_not_spoil_what_comes_later() {
        let dir = tempfile::tempdir().unwrap();
        let start = Start {
            id: "abcd1234".to_owned(),
            ..Start::default()
        };
        let mut store = Store::create(dir.path(), start, 0).unwrap();
        let path = store.dir().join(file_name("abcd1234"));
        let log = |store: &mut Store, step| {
            store.scalar("train/loss", step, 0.5, Timestamp::now());
            store.flush()
        };
        log(&mut store, 1).unwrap();
        let good = std::mem::replace(&mut store.file, File::open(&path).unwrap());
        assert!(log(&mut store, 2).is_err());
        store.file = good;
        log(&mut store, 3).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), store.end());

        let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
        let mut steps = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            if let Some(Body::Scalar(scalar)) = Record::decode(&*record).unwrap().body {
                steps.push(scalar.step);
            }
        }
        assert_eq!((steps, reader.damaged()), (vec![1, 3], 0));
    }

    #[test]
    fn two_runs_of_a_second_have_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let made: HashSet<PathBuf> = (0..3).map(|_| new_dir(dir.path(), "a").unwrap()).collect();
        assert_eq!(made.len(), 3);
    }
}
