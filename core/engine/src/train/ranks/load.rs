//! What ranks tell of themselves with their part of a step: a few bytes, from which rank 0 sees the fullest card and how long
//! ranks wait for each other.

use serde::{Deserialize, Serialize};

/// What a rank tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The most memory that was in use so far, in bytes: of its card, or of its process on the CPU.
    pub peak: Option<u64>,
    /// Seconds of the step that it spent in collectives, where it waits for the slowest rank and for the transfer.
    pub collectives: f64,
}

/// What all ranks have told of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loads {
    /// How many ranks there are.
    pub ranks: usize,
    /// The rank whose memory is the fullest, and its bytes.
    pub fullest: Option<(usize, u64)>,
    /// Seconds of the step in collectives: the mean over the ranks, which is the share of all cards' time that is spent there.
    pub collectives: f64,
}

impl Loads {
    /// Of these, by rank; nothing where there are none.
    pub fn of(loads: &[Load]) -> Option<Self> {
        let peaks = loads.iter().enumerate();
        let peaks = peaks.filter_map(|(rank, load)| Some((rank, load.peak?)));
        let sum: f64 = loads.iter().map(|load| load.collectives).sum();
        (!loads.is_empty()).then(|| Self {
            ranks: loads.len(),
            // Of several that are equally full it is the first.
            fullest: peaks.rev().max_by_key(|(_, peak)| *peak),
            collectives: sum / loads.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_rank_is_named() {
        let load = |peak, collectives| Load { peak, collectives };
        let loads = Loads::of(&[load(None, 0.5), load(Some(7), 0.25), load(Some(7), 0.0)]);
        assert_eq!(
            loads,
            Some(Loads {
                ranks: 3,
                fullest: Some((1, 7)),
                collectives: 0.25,
            })
        );
        assert_eq!(Loads::of(&[load(None, 0.0)]).unwrap().fullest, None);
        assert_eq!(Loads::of(&[]), None);
    }

    #[test]
    fn a_load_is_a_few_bytes() {
        let load = Load {
            peak: Some(141 << 30),
            collectives: 0.25,
        };
        assert!(postcard::to_stdvec(&load).unwrap().len() < 20);
    }
}
