//! A loss scale in a process.

use super::Remote;
use apus_sdk::{Base, Error, Field, LossScale, Result, Segment, Turn};
use serde::Deserialize;
use serde_json::json;

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

impl LossScale for Scale {
    fn base(&self) -> Option<Base> {
        self.base
    }

    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let field = match turn.field {
            Field::Content => "content",
            Field::Thinking => "thinking",
        };
        let segments: Vec<(String, f64)> = self.remote.call(
            "segments",
            json!({
                "text": text, "role": turn.role, "field": field, "query": turn.query, "is_last": turn.is_last,
            }),
        )?;
        Ok(segments
            .into_iter()
            .map(|(text, weight)| Segment::new(text, weight))
            .collect())
    }
}
