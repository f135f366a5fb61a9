//! What each rank is known to do, and when that means that the run cannot go on.

use crate::frame::Activity;
use std::time::{Duration, Instant};

/// How long ranks wait for one another.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without a sign of life.
    pub silence: Duration,
    /// For a rank that lives and does not arrive (`ddp_timeout`).
    pub arrival: Duration,
}

/// What is known of all ranks.
pub struct Board {
    ranks: Vec<Known>,
    limits: Limits,
}

struct Known {
    activity: Activity,
    /// Since when it does that.
    since: Instant,
    heard: Instant,
    left: bool,
}

/// Whether the run can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As far as is known.
    GoesOn,
    /// Not with this rank, for this reason.
    Failed(usize, String),
}

impl Board {
    /// Of ranks that have just met.
    pub fn new(count: usize, limits: Limits) -> Self {
        let now = Instant::now();
        let known = |_| Known {
            activity: Activity {
                name: "set-up".to_owned(),
                unhurried: true,
                ..Activity::default()
            },
            since: now,
            heard: now,
            left: false,
        };
        Self {
            ranks: (0..count).map(known).collect(),
            limits,
        }
    }

    /// What this rank itself does.
    pub fn own(&mut self, rank: usize) -> &mut Activity {
        let known = &mut self.ranks[rank];
        known.heard = Instant::now();
        &mut known.activity
    }

    /// This rank enters a collective, or has left it.
    pub fn wait(&mut self, rank: usize, waits: bool) {
        let known = &mut self.ranks[rank];
        known.since = Instant::now();
        known.activity.waits = waits;
        known.activity.entered += u64::from(waits);
    }

    /// A sign of life, perhaps with what the rank does.
    pub fn heard(&mut self, rank: usize, activity: Option<Activity>) {
        let known = &mut self.ranks[rank];
        known.heard = Instant::now();
        if let Some(activity) = activity {
            if known.activity != activity {
                known.since = known.heard;
            }
            known.activity = activity;
        }
    }

    /// Judges from now on only: what was before, this process could not hear.
    pub fn begin_anew(&mut self) {
        let now = Instant::now();
        for known in &mut self.ranks {
            (known.heard, known.since) = (now, now);
        }
    }

    /// The rank has finished.
    pub fn left(&mut self, rank: usize) {
        self.ranks[rank].left = true;
    }

    /// The newest checkpoint of the run.
    pub fn saved(&self) -> Option<String> {
        self.ranks.first()?.activity.saved.clone()
    }

    /// What a rank was doing when it was last heard of.
    pub fn doing(&self, rank: usize) -> String {
        let activity = &self.ranks[rank].activity;
        let component = activity.component.iter();
        let component: String = component.map(|name| format!(", in {name}")).collect();
        let waits = match activity.waits {
            true => ", waiting for the others",
            false => "",
        };
        format!("at {}{component}{waits}", activity.name)
    }

    /// Judges at `rank`. Only rank 0 hears of all; the others watch over rank 0 alone.
    pub fn verdict(&self, rank: usize) -> Verdict {
        let watched = |at: &usize| *at != rank && (rank == 0 || *at == 0) && !self.ranks[*at].left;
        let others: Vec<usize> = (0..self.ranks.len()).filter(watched).collect();
        let silent = others
            .iter()
            .find(|&&at| self.ranks[at].heard.elapsed() > self.limits.silence);
        if let Some(&at) = silent {
            let seconds = self.ranks[at].heard.elapsed().as_secs();
            return Verdict::Failed(
                at,
                format!(
                    "gave no sign of life for {seconds} s; it was {}",
                    self.doing(at)
                ),
            );
        }
        match rank {
            0 => self.late(),
            _ => Verdict::GoesOn,
        }
    }

    /// A rank for which another one waits too long.
    fn late(&self) -> Verdict {
        let waits = |known: &&Known| known.activity.waits && !known.left;
        let Some(first) = self
            .ranks
            .iter()
            .filter(waits)
            .max_by_key(|known| known.activity.entered)
        else {
            return Verdict::GoesOn;
        };
        if first.since.elapsed() <= self.limits.arrival {
            return Verdict::GoesOn;
        }
        // One that waits itself is held up by the same rank, even if it has come less far.
        let behind = |known: &Known| {
            let Activity {
                entered,
                waits,
                unhurried,
                ..
            } = known.activity;
            !known.left && !waits && !unhurried && entered < first.activity.entered
        };
        let ranks = self.ranks.iter().enumerate();
        let behind = ranks.filter(|(_, known)| behind(known));
        let Some((at, late)) = behind.min_by_key(|(_, known)| known.activity.entered) else {
            return Verdict::GoesOn;
        };
        let here = |known: &Known| {
            known
                .since
                .elapsed()
                .min(Duration::from_secs(u32::MAX.into()))
                .as_secs()
        };
        Verdict::Failed(
            at,
            format!(
                "has not come to {} in {} s; it is {} since {} s (ddp_timeout is {} s)",
                first.activity.name,
                here(first),
                self.doing(at),
                here(late),
                self.limits.arrival.as_secs()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(arrival: u64) -> Board {
        let limits = Limits {
            silence: Duration::from_secs(60),
            arrival: Duration::from_millis(arrival),
        };
        let mut board = Board::new(3, limits);
        for rank in 0..3 {
            let own = board.own(rank);
            own.unhurried = false;
            own.name = format!("step {rank}");
        }
        board
    }

    #[test]
    fn a_rank_that_does_not_arrive_is_named_after_the_limit() {
        let mut board = board(0);
        assert_eq!(board.verdict(0), Verdict::GoesOn);
        board.wait(0, true);
        board.wait(2, true);
        std::thread::sleep(Duration::from_millis(5));
        let Verdict::Failed(1, why) = board.verdict(0) else {
            panic!("{:?}", board.verdict(0))
        };
        assert!(
            why.contains("has not come to step") && why.contains("it is at step 1"),
            "{why}"
        );
        // Saving takes as long as it takes.
        board.own(1).unhurried = true;
        assert_eq!(board.verdict(0), Verdict::GoesOn);
        // All have come: what is slow is the collective itself.
        board.own(1).unhurried = false;
        board.wait(1, true);
        assert_eq!(board.verdict(0), Verdict::GoesOn);
    }

    #[test]
    fn a_silent_rank_is_named_unless_it_has_left() {
        let limits = Limits {
            silence: Duration::ZERO,
            arrival: Duration::from_secs(60),
        };
        let mut board = Board::new(2, limits);
        std::thread::sleep(Duration::from_millis(5));
        let Verdict::Failed(1, why) = board.verdict(0) else {
            panic!()
        };
        assert!(
            why.contains("no sign of life") && why.contains("at set-up"),
            "{why}"
        );
        assert!(matches!(board.verdict(1), Verdict::Failed(0, _)));
        board.left(1);
        assert_eq!(board.verdict(0), Verdict::GoesOn);
    }
}
