//! Drops, cuts or splits samples that are longer than `max_length`.

use crate::chat::encode::{Encoded, IGNORED};
pub use apus_components::config::Truncation;
use std::ops::Range;

/// What became of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Truncated {
    /// It was short enough.
    Whole(Encoded),
    /// Tokens were cut off.
    Cut(Encoded),
    /// It was split into these.
    Parts(Vec<Encoded>),
    /// It is too long and dropped; it has so many tokens.
    Dropped(usize),
}

/// Applies the strategy. With [`Truncation::Raise`], too, a long sample is returned as dropped, because the caller knows its
/// file and line.
pub fn truncate(sample: Encoded, max_length: Option<usize>, strategy: Truncation) -> Truncated {
    let length = sample.len();
    let Some(max) = max_length.filter(|max| length > *max) else {
        return Truncated::Whole(sample);
    };
    match strategy {
        Truncation::Delete | Truncation::Raise => Truncated::Dropped(length),
        Truncation::Left => Truncated::Cut(part(&sample, length - max..length)),
        Truncation::Right => Truncated::Cut(part(&sample, 0..max)),
        Truncation::Split => {
            let starts = (0..length).step_by(max.max(1));
            let parts = starts.map(|from| part(&sample, from..length.min(from + max.max(1))));
            Truncated::Parts(parts.collect())
        }
    }
}

/// A range of a sample's tokens. Its first token is not trained, because nothing before it is left to predict it from.
fn part(sample: &Encoded, range: Range<usize>) -> Encoded {
    let mut part = Encoded {
        input_ids: sample.input_ids[range.clone()].to_vec(),
        labels: sample.labels[range.clone()].to_vec(),
        weights: sample.weights[range].to_vec(),
        channel: sample.channel.clone(),
        columns: sample.columns.clone(),
    };
    if let (Some(label), Some(weight)) = (part.labels.first_mut(), part.weights.first_mut()) {
        (*label, *weight) = (IGNORED, 0.0);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Encoded {
        Encoded {
            input_ids: vec![1, 2, 3],
            labels: vec![1, 2, 3],
            weights: vec![1.0; 3],
            ..Encoded::default()
        }
    }

    #[test]
    fn strategies() {
        let ids = |strategy| match truncate(sample(), Some(2), strategy) {
            Truncated::Cut(sample) => sample.input_ids,
            other => panic!("cut expected, found {other:?}"),
        };
        assert_eq!(ids(Truncation::Left), [2, 3]);
        assert_eq!(ids(Truncation::Right), [1, 2]);
        let fitted = |max| truncate(sample(), max, Truncation::Delete);
        assert_eq!(fitted(Some(2)), Truncated::Dropped(3));
        assert_eq!(fitted(Some(3)), Truncated::Whole(sample()));
        assert_eq!(fitted(None), Truncated::Whole(sample()));
        assert_eq!("right".parse::<Truncation>().unwrap(), Truncation::Right);
        assert!("middle".parse::<Truncation>().is_err());
    }

    #[test]
    fn a_split_keeps_every_token_but_the_first_labels() {
        let Truncated::Parts(parts) = truncate(sample(), Some(2), Truncation::Split) else {
            panic!("parts expected")
        };
        let ids: Vec<_> = parts.iter().map(|part| part.input_ids.clone()).collect();
        assert_eq!(ids, [vec![1, 2], vec![3]]);
        assert_eq!(parts[0].labels, [IGNORED, 2]);
        assert_eq!((parts[0].targets(), parts[1].targets()), (1, 0));
    }
}
