//! A loss scale in a process.

use super::Remote;
use apus_sdk::{Base, Error, Field, LossScale, Piece, Result, Segment, Turn};
use serde::{Deserialize, Serialize};

struct Scale {
    remote: Remote,
    base: Option<Base>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    base: Option<String>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn LossScale>> {
    let facts: Facts = remote.facts()?;
    let base = match facts.base.as_deref() {
        None => None,
        Some("default") => Some(Base::Default),
        Some("last_round") => Some(Base::LastRound),
        Some("all") => Some(Base::All),
        Some(other) => {
            return Err(Error::new(format!(
                "{}: its base is {other:?}; a base is default, last_round or all",
                remote.what("make")
            )));
        }
    };
    Ok(Box::new(Scale { remote, base }))
}

/// The arguments of a call.
#[derive(Serialize)]
struct With<'a> {
    text: &'a str,
    role: &'a str,
    field: &'static str,
    query: Option<&'a str>,
    is_last: bool,
}

impl<'a> With<'a> {
    fn new(text: &'a str, turn: &Turn<'a>) -> Self {
        Self {
            text,
            role: turn.role,
            field: match turn.field {
                Field::Content => "content",
                Field::Thinking => "thinking",
            },
            query: turn.query,
            is_last: turn.is_last,
        }
    }
}

fn segments(found: Vec<(String, f64)>) -> Vec<Segment> {
    let segments = found.into_iter();
    segments
        .map(|(text, weight)| Segment::new(text, weight))
        .collect()
}

impl LossScale for Scale {
    fn base(&self) -> Option<Base> {
        self.base
    }

    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let with = serde_json::to_value(With::new(text, turn))?;
        let found = self.remote.call("segments", with)?;
        Ok(segments(found))
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn segments_of_all(&self, pieces: &[Piece]) -> Vec<Result<Vec<Segment>>> {
        let all = pieces.iter();
        let all: Vec<With> = all
            .map(|piece| With::new(piece.text(), piece.turn()))
            .collect();
        let answers = self.remote.call_all("segments", &all);
        answers
            .into_iter()
            .map(|found| found.map(segments))
            .collect()
    }
}
