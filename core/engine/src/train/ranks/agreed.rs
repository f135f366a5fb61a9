//! What all ranks have to know of each other before they go on: whether a part of a step went well everywhere, and sums of
//! numbers that each rank knows in part.

use super::Ranks;
use anyhow::{Error, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An error that all ranks have heard of in the same place of the run. A follower that returns it waits for what rank 0 makes
/// of it; nobody is in the middle of something.
#[derive(Debug)]
pub struct Agreed(String);

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Agreed {}

/// Whether all ranks have heard of this error.
pub fn is_agreed(error: &Error) -> bool {
    error.downcast_ref::<Agreed>().is_some()
}

/// Where a rank stands when it asks the others whether to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Standing {
    /// Its optimizer wants the passes of the step once more, which all ranks make together.
    Again,
    /// It has done its part.
    Done,
    /// It cannot go on.
    Failed(String),
}

impl Ranks {
    /// What is an error on one rank is one on all: `Ok` where all of them have it, or the same error everywhere.
    ///
    /// # Errors
    /// A rank has one, or is gone.
    pub fn agreed(&self, here: Result<()>) -> Result<()> {
        self.meet(match here {
            Ok(()) => Standing::Done,
            Err(error) => Standing::Failed(format!("{error:#}")),
        })
    }

    /// The passes of a step are to be made once more, on all ranks: none begins before all have come here. One whose optimizer
    /// has failed, or has made its step, comes to [`agreed`](Self::agreed) instead and is met there.
    ///
    /// # Errors
    /// A rank does not come along, or is gone.
    pub fn all_pass_again(&self) -> Result<()> {
        self.meet(Standing::Again)
    }

    fn meet(&self, here: Standing) -> Result<()> {
        let all: Vec<Standing> = self.gather(&here)?;
        self.judged(verdict(&all))
    }

    /// What rank 0 finds wrong, as an error on all ranks.
    ///
    /// # Errors
    /// Rank 0 finds something, or is gone.
    pub fn judged(&self, found: Option<String>) -> Result<()> {
        match self.broadcast(found)? {
            Some(text) => Err(anyhow!(Agreed(text))),
            None => Ok(()),
        }
    }

    /// The sum over all ranks, added by rank, so that all of them have the same number.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn total(&self, here: f64) -> Result<f64> {
        let all: Vec<f64> = self.gather(&here)?;
        self.broadcast(all.iter().sum())
    }
}

/// The first error, with its rank unless all have the same; or ranks that do not do the same.
fn verdict(all: &[Standing]) -> Option<String> {
    let failed = all.iter().enumerate().find_map(|(rank, at)| match at {
        Standing::Failed(text) => Some((rank, text)),
        Standing::Again | Standing::Done => None,
    });
    if let Some((rank, text)) = failed {
        let is_that = |other: &Standing| matches!(other, Standing::Failed(other) if other == text);
        return Some(match all.iter().all(is_that) {
            true => text.clone(),
            false => format!("rank {rank}: {text}"),
        });
    }
    let rank_of = |standing| all.iter().position(|at| *at == standing);
    let (again, done) = (rank_of(Standing::Again)?, rank_of(Standing::Done)?);
    Some(format!(
        "rank {again}: the optimizer makes the passes of the step once more (evaluate), and that of rank {done} does not: they \
         are made by all ranks together, so that it has to ask for them as often on each"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_first_rank_with_an_error_is_named() {
        let error = |text: &str| Standing::Failed(text.to_owned());
        let said = |all: &[Standing]| verdict(all).unwrap_or_default();
        assert_eq!(said(&[Standing::Done, Standing::Done]), "");
        assert_eq!(said(&[error("a"), error("a")]), "a");
        assert_eq!(said(&[Standing::Done, error("a"), error("b")]), "rank 1: a");
        assert_eq!(said(&[Standing::Again, error("a")]), "rank 1: a");
    }

    #[test]
    fn ranks_pass_again_together() {
        let said = |all: &[Standing]| verdict(all).unwrap_or_default();
        assert_eq!(said(&[Standing::Again, Standing::Again]), "");
        let parted = said(&[Standing::Again, Standing::Done]);
        assert!(
            parted.starts_with("rank 0: ") && parted.contains("that of rank 1 does not"),
            "{parted}"
        );
        let parted = said(&[Standing::Done, Standing::Again]);
        assert!(parted.starts_with("rank 1: "), "{parted}");
    }

    #[test]
    fn it_is_known_below_what_is_said_of_it() {
        let agreed = || Err::<(), _>(anyhow!(Agreed("a".to_owned())));
        let error = agreed().context("step 3").context("run").unwrap_err();
        assert!(is_agreed(&error));
        assert!(!is_agreed(&anyhow!("a")));
    }
}
