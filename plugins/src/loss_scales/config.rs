//! A loss scale described by a table, as ms-swift's JSON configurations are: strings to look for
//! and the weights of what they match.
//!
//! A table holds either delimiters (a literal string opens a part that runs to the next one; the
//! delimiter and its part have a weight each) or patterns (regular expressions whose matches have
//! a weight). In front of both stand queries: if the user's text contains one, the whole turn has
//! its weight.

use apus_sdk::{Result, Segment};
use regex::Regex;

/// A loss scale that is a table and nothing else: its documentation, its name, its type, the table. The table is made when it is first
/// asked for, and an error in it is returned to the caller.
macro_rules! table_scale {
    ($(#[doc = $doc:literal])* $name:literal, $scale:ident, $table:expr) => {
        #[derive(serde::Deserialize)]
        struct $scale;

        impl apus_sdk::LossScale for $scale {
            fn segments(
                &self,
                text: &str,
                turn: &apus_sdk::Turn,
            ) -> apus_sdk::Result<Vec<apus_sdk::Segment>> {
                static TABLE: std::sync::LazyLock<apus_sdk::Result<Table>> =
                    std::sync::LazyLock::new(|| $table);
                let table = TABLE.as_ref().map_err(Clone::clone)?;
                Ok(table.segments(text, turn.query))
            }
        }

        apus_sdk::register! {
            $(#[doc = $doc])*
            LossScale, $name, $scale
        }
    };
}

pub(super) use table_scale;

/// A table of strings and weights.
pub struct Table {
    queries: Vec<(String, f64)>,
    keys: Keys,
}

enum Keys {
    /// Any of the delimiters, and for each the weight of itself and of what follows it.
    Delimiters(Regex, Vec<(String, [f64; 2])>),
    /// Any of the patterns, and each of them anchored at the start with its weight.
    Patterns(Regex, Vec<(Regex, f64)>),
}

impl Table {
    /// A table of literal delimiters: the weight of the delimiter and of the text up to the next.
    ///
    /// # Errors
    /// More text than the regular expression engine takes.
    pub fn delimiters(keys: &[(&str, [f64; 2])]) -> Result<Self> {
        let any: Vec<_> = keys.iter().map(|(key, _)| regex::escape(key)).collect();
        let keys = keys.iter().map(|(key, w)| ((*key).to_owned(), *w));
        Ok(Self {
            queries: Vec::new(),
            keys: Keys::Delimiters(compile(&any.join("|"))?, keys.collect()),
        })
    }

    /// A table of regular expressions, in which `.` matches a line break too.
    ///
    /// # Errors
    /// An expression that is malformed.
    pub fn patterns(keys: &[(&str, f64)]) -> Result<Self> {
        let any: Vec<_> = keys.iter().map(|(key, _)| format!("(?:{key})")).collect();
        let each = keys
            .iter()
            .map(|(key, weight)| Ok((compile(&format!(r"\A(?:{key})"))?, *weight)))
            .collect::<Result<_>>()?;
        Ok(Self {
            queries: Vec::new(),
            keys: Keys::Patterns(compile(&any.join("|"))?, each),
        })
    }

    /// The same table with strings that, found in the user's text, decide for the whole turn.
    #[must_use]
    pub fn with_queries(mut self, queries: &[(&str, f64)]) -> Self {
        self.queries = queries.iter().map(|(q, w)| ((*q).to_owned(), *w)).collect();
        self
    }

    /// Splits a text. `query` is the user's text before the turn.
    pub fn segments(&self, text: &str, query: Option<&str>) -> Vec<Segment> {
        let decided = query.and_then(|query| {
            let hit = |(key, _): &&(String, f64)| query.contains(key.as_str());
            self.queries.iter().find(hit)
        });
        match (decided, &self.keys) {
            (Some((_, weight)), _) => vec![Segment::new(text, *weight)],
            (None, Keys::Delimiters(any, keys)) => by_delimiter(text, any, keys),
            (None, Keys::Patterns(any, keys)) => by_pattern(text, any, keys),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("(?s){pattern}")).map_err(|error| error.to_string().into())
}

fn by_delimiter(text: &str, any: &Regex, keys: &[(String, [f64; 2])]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut weight = 1.0;
    let mut from = 0;
    for found in any.find_iter(text) {
        // Before the first delimiter only a text that is there counts; between two, an empty one too.
        if from > 0 || found.start() > 0 {
            segments.push(Segment::new(&text[from..found.start()], weight));
        }
        let [own, after] = keys
            .iter()
            .find(|(key, _)| key == found.as_str())
            .map_or([1.0, 1.0], |(_, weights)| *weights);
        segments.push(Segment::new(found.as_str(), own));
        (weight, from) = (after, found.end());
    }
    if from > 0 || !text.is_empty() {
        segments.push(Segment::new(&text[from..], weight));
    }
    segments
}

fn by_pattern(text: &str, any: &Regex, keys: &[(Regex, f64)]) -> Vec<Segment> {
    // As in ms-swift, a part is judged by what it begins with, whether a match cut it out or not.
    let weigh = |part: &str| {
        let hit = keys.iter().find(|(key, _)| key.is_match(part));
        Segment::new(part, hit.map_or(1.0, |(_, weight)| *weight))
    };
    let mut segments = Vec::new();
    let mut from = 0;
    for found in any.find_iter(text) {
        segments.push(weigh(&text[from..found.start()]));
        segments.push(weigh(found.as_str()));
        from = found.end();
    }
    segments.push(weigh(&text[from..]));
    segments.retain(|segment| !segment.text.is_empty());
    segments
}
