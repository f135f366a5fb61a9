//! What happens to samples longer than `max_length`.

use crate::chat::encode::Encoded;
use anyhow::{Result, bail};
use std::str::FromStr;

/// The names that [`Truncation`] reads.
const NAMES: [(&str, Truncation); 4] = [
    ("delete", Truncation::Delete),
    ("left", Truncation::Left),
    ("right", Truncation::Right),
    ("raise", Truncation::Raise),
];

/// `--truncation_strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// Drop the sample.
    #[default]
    Delete,
    /// Keep its last tokens.
    Left,
    /// Keep its first tokens.
    Right,
    /// Stop with an error.
    Raise,
}

impl FromStr for Truncation {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, strategy)) => Ok(*strategy),
            None => {
                bail!("unknown truncation strategy `{name}`, expected delete, left, right or raise")
            }
        }
    }
}

/// What became of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Fitted {
    /// It was short enough.
    Whole(Encoded),
    /// Tokens were cut off.
    Cut(Encoded),
    /// It is too long and dropped; its length.
    Dropped(usize),
}

/// Applies the strategy. Under [`Truncation::Raise`] too, a sample that is too long is handed back
/// as dropped: it is the caller who knows its file and line.
pub fn fit(mut sample: Encoded, max_length: Option<usize>, strategy: Truncation) -> Fitted {
    let length = sample.len();
    let Some(max) = max_length.filter(|max| length > *max) else {
        return Fitted::Whole(sample);
    };
    match strategy {
        Truncation::Delete | Truncation::Raise => return Fitted::Dropped(length),
        Truncation::Left => {
            sample.input_ids.drain(..length - max);
            sample.labels.drain(..length - max);
            sample.weights.drain(..length - max);
        }
        Truncation::Right => {
            sample.input_ids.truncate(max);
            sample.labels.truncate(max);
            sample.weights.truncate(max);
        }
    }
    Fitted::Cut(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Encoded {
        Encoded {
            input_ids: vec![1, 2, 3],
            labels: vec![1, 2, 3],
            weights: vec![1.0; 3],
            channel: None,
        }
    }

    #[test]
    fn strategies() {
        let ids = |strategy| match fit(sample(), Some(2), strategy) {
            Fitted::Cut(sample) => sample.input_ids,
            other => panic!("cut expected, found {other:?}"),
        };
        assert_eq!(ids(Truncation::Left), [2, 3]);
        assert_eq!(ids(Truncation::Right), [1, 2]);
        let fitted = |max| fit(sample(), max, Truncation::Delete);
        assert_eq!(fitted(Some(2)), Fitted::Dropped(3));
        assert_eq!(fitted(Some(3)), Fitted::Whole(sample()));
        assert_eq!(fitted(None), Fitted::Whole(sample()));
        assert_eq!("right".parse::<Truncation>().unwrap(), Truncation::Right);
        assert!("split".parse::<Truncation>().is_err());
    }
}
