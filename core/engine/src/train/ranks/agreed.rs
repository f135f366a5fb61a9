//! What all ranks have to know of each other before they go on: whether a part of a step went well everywhere, and sums of
//! numbers that each rank knows in part.

use super::Ranks;
use anyhow::{Error, Result, anyhow};
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

impl Ranks {
    /// What is an error on one rank is one on all: `Ok` where all of them have it, or the same error everywhere.
    ///
    /// # Errors
    /// A rank has one, or is gone.
    pub fn agreed(&self, here: Result<()>) -> Result<()> {
        let here = here.err().map(|error| format!("{error:#}"));
        let all: Vec<Option<String>> = self.gather(&here)?;
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

/// The first error, with its rank unless all have the same.
fn verdict(all: &[Option<String>]) -> Option<String> {
    let (rank, text) = all
        .iter()
        .enumerate()
        .find_map(|(rank, error)| Some((rank, error.as_ref()?)))?;
    Some(match all.iter().all(|other| other.as_ref() == Some(text)) {
        true => text.clone(),
        false => format!("rank {rank}: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_first_rank_with_an_error_is_named() {
        let error = |text: &str| Some(text.to_owned());
        assert_eq!(verdict(&[None, None]), None);
        assert_eq!(verdict(&[error("a"), error("a")]), error("a"));
        assert_eq!(verdict(&[None, error("a"), error("b")]), error("rank 1: a"));
    }

    #[test]
    fn it_is_known_below_what_is_said_of_it() {
        let agreed = || Err::<(), _>(anyhow!(Agreed("a".to_owned())));
        let error = agreed().context("step 3").context("run").unwrap_err();
        assert!(is_agreed(&error));
        assert!(!is_agreed(&anyhow!("a")));
    }
}
