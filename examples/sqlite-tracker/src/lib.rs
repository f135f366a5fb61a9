//! A tracker that writes runs to a SQLite file, to be asked with SQL afterwards:
//!
//! ```sql
//! select step, value from scalars where run = 1 and name = 'eval_loss' order by step;
//! ```

use apus_sdk::{EndState, Error, Result, RunInfo, Tracker};
use rusqlite::{Connection, params};
use serde_json::{Map, Value};
use std::path::Path;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Sqlite {
        /// The file; a relative path lies in the run's folder. Several runs may share one.
        file: String = "runs.sqlite".to_owned(),
    }
    state {
        open: Option<Run>,
    }
}

apus_sdk::register! {
    /// Writes runs, numbers and texts to a SQLite file.
    Tracker, "sqlite", Sqlite
}

const TABLES: &str = "
    create table if not exists runs (
        id integer primary key, name text not null, dir text not null, config text not null,
        max_steps integer not null, resumed_at integer not null,
        started text not null default current_timestamp, ended text,
        state text not null default 'running', detail text
    );
    create table if not exists scalars (
        run integer not null references runs (id), step integer not null, name text not null,
        value real not null
    );
    create index if not exists scalars_by_name on scalars (run, name, step);
    create table if not exists texts (
        run integer not null references runs (id), step integer not null, name text not null,
        text text not null
    );
";

impl Tracker for Sqlite {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let path = run.dir.join(&self.file);
        let open = Run::begin(&path, run);
        self.open = Some(open.map_err(|error| format!("{}: {error}", path.display()))?);
        Ok(())
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        self.run()?.log(step, values).map_err(Error::new)
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        self.run()?.text(step, name, text).map_err(Error::new)
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        let (state, detail) = match end {
            EndState::Finished(summary) => ("finished", Some(serde_json::to_string(summary)?)),
            EndState::Interrupted => ("interrupted", None),
            EndState::Crashed(message) => ("crashed", Some(message.clone())),
        };
        self.run()?.end(state, detail).map_err(Error::new)
    }
}

impl Sqlite {
    fn run(&mut self) -> Result<&mut Run> {
        Ok(self.open.as_mut().ok_or("the run has not begun")?)
    }
}

/// A run in the file.
struct Run {
    file: Connection,
    id: i64,
}

impl Run {
    fn begin(path: &Path, run: &RunInfo) -> rusqlite::Result<Self> {
        let file = Connection::open(path)?;
        file.execute_batch(TABLES)?;
        file.execute(
            "insert into runs (name, dir, config, max_steps, resumed_at) values (?, ?, ?, ?, ?)",
            params![
                run.name,
                run.dir.to_string_lossy(),
                Value::Object(run.config.clone()).to_string(),
                run.max_steps.cast_signed(),
                run.resumed_at.cast_signed(),
            ],
        )?;
        let id = file.last_insert_rowid();
        Ok(Self { file, id })
    }

    /// All numbers of a step or none.
    fn log(&mut self, step: u64, values: &Map<String, Value>) -> rusqlite::Result<()> {
        let log = self.file.transaction()?;
        let mut insert = log.prepare("insert into scalars values (?, ?, ?, ?)")?;
        for (name, value) in values {
            if let Some(number) = value.as_f64() {
                insert.execute(params![self.id, step.cast_signed(), name, number])?;
            }
        }
        drop(insert);
        log.commit()
    }

    fn text(&self, step: u64, name: &str, text: &str) -> rusqlite::Result<()> {
        let values = params![self.id, step.cast_signed(), name, text];
        self.file
            .execute("insert into texts values (?, ?, ?, ?)", values)
            .map(drop)
    }

    fn end(&self, state: &str, detail: Option<String>) -> rusqlite::Result<()> {
        self.file
            .execute(
                "update runs set state = ?, detail = ?, ended = current_timestamp where id = ?",
                params![state, detail, self.id],
            )
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::track;
    use serde_json::json;

    fn ask<T: rusqlite::types::FromSql>(file: &Connection, query: &str) -> T {
        file.query_row(query, (), |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_run_can_be_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let logs = [
            (1, json!({"loss": 2.5, "eta": "1m"})),
            (2, json!({"loss": 2, "eval_loss": 3.0})),
        ];
        for _ in 0..2 {
            track(&mut Sqlite::default(), dir.path(), &logs).unwrap();
        }
        let file = Connection::open(dir.path().join("runs.sqlite")).unwrap();
        let count: i64 = ask(&file, "select count(*) from scalars");
        assert_eq!(count, 6);
        let loss: f64 = ask(
            &file,
            "select value from scalars where run = 2 and name = 'loss' order by step desc limit 1",
        );
        assert_eq!(loss, 2.0);
        let states: String = ask(&file, "select group_concat(state) from runs");
        assert_eq!(states, "finished,finished");
    }

    #[test]
    fn texts_and_a_crash_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.sqlite");
        let mut tracker = Sqlite {
            file: path.to_str().unwrap().to_owned(),
            ..Sqlite::default()
        };
        tracker.start(&RunInfo::default()).unwrap();
        tracker.text(3, "hello?", "hi").unwrap();
        tracker
            .finish(&EndState::Crashed("out of memory".to_owned()))
            .unwrap();
        let file = Connection::open(path).unwrap();
        let text: String = ask(&file, "select text from texts where step = 3");
        assert_eq!(text, "hi");
        let end: String = ask(&file, "select state || ': ' || detail from runs");
        assert_eq!(end, "crashed: out of memory");
    }
}
