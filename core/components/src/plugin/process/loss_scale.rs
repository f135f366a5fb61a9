//! A loss scale in a process.

use super::Remote;
use apus_sdk::{Base, Error, Field, LossScale, Need, Piece, Result, Segment, Setup, Turn};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

struct Scale {
    remote: Remote,
    base: Option<Base>,
    shows: Shows,
}

/// What of a piece takes time to find out or to send.
struct Shows {
    tokens: bool,
    columns: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    base: Option<String>,
    /// Whether it wants to know the number of tokens of a piece, which have to be counted for it.
    tokens: bool,
    /// The columns of the row that it is shown.
    columns: Vec<String>,
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
    let shows = Shows {
        tokens: facts.tokens,
        columns: facts.columns,
    };
    let why = match (shows.tokens, shows.columns.is_empty()) {
        (true, _) => Some("it counts tokens"),
        (false, false) => Some("it asks for columns"),
        (false, true) => None,
    };
    if let (Some(why), false) = (why, remote.declares(Need::Piece)) {
        return Err(remote.unannounced("make", why, Need::Piece));
    }
    Ok(Box::new(Scale {
        remote,
        base,
        shows,
    }))
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

/// The arguments of a call of a scale that asks where a piece stands.
#[derive(Serialize)]
struct Placed<'a> {
    #[serde(flatten)]
    with: With<'a>,
    message: usize,
    messages: usize,
    whole: &'a str,
    /// In characters, which texts are counted by in most languages.
    offset: usize,
    channel: Option<&'a str>,
    columns: BTreeMap<&'a str, &'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Option<usize>>,
}

impl<'a> Placed<'a> {
    fn new(piece: &'a Piece<'a>, shows: &'a Shows) -> Self {
        let (whole, offset) = (piece.whole(), piece.offset());
        let column = |name: &'a String| {
            let value = piece.columns().get(name);
            (name.as_str(), value.unwrap_or(&Value::Null))
        };
        Self {
            with: With::new(piece.text(), piece.turn()),
            message: piece.message(),
            messages: piece.messages(),
            whole,
            offset: whole
                .get(..offset)
                .map_or(0, |before| before.chars().count()),
            channel: piece.channel(),
            columns: shows.columns.iter().map(column).collect(),
            tokens: shows.tokens.then(|| piece.tokens()),
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
    fn check(&self, setup: &Setup) -> Result<()> {
        self.remote.check(setup)
    }

    fn base(&self) -> Option<Base> {
        self.base
    }

    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let found = self.remote.call("segments", With::new(text, turn))?;
        Ok(segments(found))
    }

    fn segments_of(&self, piece: &Piece) -> Result<Vec<Segment>> {
        if !self.remote.declares(Need::Piece) {
            return self.segments(piece.text(), piece.turn());
        }
        let with = Placed::new(piece, &self.shows);
        Ok(segments(self.remote.call("segments", with)?))
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn segments_of_all(&self, pieces: &[Piece]) -> Vec<Result<Vec<Segment>>> {
        let answers = match self.remote.declares(Need::Piece) {
            true => {
                let place = |piece| Placed::new(piece, &self.shows);
                let all: Vec<Placed> = pieces.iter().map(place).collect();
                self.remote.call_all("segments", &all)
            }
            false => {
                let all = pieces.iter();
                let all: Vec<With> = all
                    .map(|piece| With::new(piece.text(), piece.turn()))
                    .collect();
                self.remote.call_all("segments", &all)
            }
        };
        answers
            .into_iter()
            .map(|found| found.map(segments))
            .collect()
    }
}
