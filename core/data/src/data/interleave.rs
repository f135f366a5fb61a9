//! Draws rows from several datasets at random, as Hugging Face's `interleave_datasets` does.

use super::rng::Shuffle;
use anyhow::{Result, ensure};
pub use apus_components::config::StoppingStrategy;
use std::iter::Peekable;

/// How datasets are mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// The probability of each dataset.
    pub probabilities: Vec<f64>,
    /// When the rows end.
    pub stopping: StoppingStrategy,
}

impl Mix {
    /// Checks that there is a probability for each of so many datasets.
    ///
    /// # Errors
    /// Their number differs, one is not above 0, or their sum is not 1.
    pub fn check(&self, datasets: usize) -> Result<()> {
        let given = &self.probabilities;
        ensure!(
            given.len() == datasets,
            "interleave_prob has {} numbers and dataset {datasets} entries; give one probability for each",
            given.len()
        );
        ensure!(
            given.iter().all(|p| *p > 0.0),
            "interleave_prob is {given:?}, expected numbers above 0"
        );
        let sum: f64 = given.iter().sum();
        ensure!(
            (sum - 1.0).abs() < 1e-6,
            "interleave_prob adds up to {sum}, expected 1"
        );
        Ok(())
    }
}

/// Rows of a dataset, one after another.
pub type RowIter<T> = Box<dyn Iterator<Item = Result<T>> + Send>;

/// Opens a dataset at its first row.
pub type OpenDataset<T> = Box<dyn Fn() -> Result<RowIter<T>> + Send>;

/// Rows of several datasets, drawn at random.
pub struct Interleaved<T> {
    open: Vec<OpenDataset<T>>,
    rows: Vec<Peekable<RowIter<T>>>,
    exhausted: Vec<bool>,
    mix: Mix,
    random: Shuffle,
}

impl<T> Interleaved<T> {
    /// Mixes datasets.
    ///
    /// # Errors
    /// A dataset cannot be opened or has no row.
    pub fn new(open: Vec<OpenDataset<T>>, mix: Mix, random: Shuffle) -> Result<Self> {
        let mut rows = Vec::new();
        for (index, open) in open.iter().enumerate() {
            let mut one = open()?.peekable();
            ensure!(
                one.peek().is_some(),
                "dataset {} of {} is empty",
                index + 1,
                mix.probabilities.len()
            );
            rows.push(one);
        }
        Ok(Self {
            exhausted: vec![false; open.len()],
            open,
            rows,
            mix,
            random,
        })
    }

    /// Draws the dataset of the next row.
    fn choose(&mut self) -> usize {
        let mut rest = self.random.unit();
        let last = self.mix.probabilities.len() - 1;
        let mut probabilities = self.mix.probabilities.iter();
        let chosen = probabilities.position(|p| {
            rest -= p;
            rest < 0.0
        });
        // The sum may fall short of 1 by rounding.
        chosen.unwrap_or(last)
    }
}

impl<T> Iterator for Interleaved<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let mut exhausted = self.exhausted.iter();
        let over = match self.mix.stopping {
            StoppingStrategy::FirstExhausted => exhausted.any(|exhausted| *exhausted),
            StoppingStrategy::AllExhausted => exhausted.all(|exhausted| *exhausted),
        };
        if over {
            return None;
        }
        let chosen = self.choose();
        let row = self.rows[chosen].next();
        if self.rows[chosen].peek().is_none() {
            self.exhausted[chosen] = true;
            if self.mix.stopping == StoppingStrategy::AllExhausted {
                match self.open[chosen]() {
                    Ok(rows) => self.rows[chosen] = rows.peekable(),
                    Err(error) => return Some(Err(error)),
                }
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(
        lengths: &[usize],
        probabilities: &[f64],
        stopping: StoppingStrategy,
    ) -> Vec<(usize, usize)> {
        let open = lengths.iter().enumerate().map(|(set, &length)| {
            let rows = move || (0..length).map(move |row| Ok((set, row)));
            Box::new(move || Ok(Box::new(rows()) as RowIter<_>)) as OpenDataset<_>
        });
        let mix = Mix {
            probabilities: probabilities.to_vec(),
            stopping,
        };
        mix.check(lengths.len()).unwrap();
        Interleaved::new(open.collect(), mix, Shuffle::new(42, 9))
            .unwrap()
            .collect::<Result<_>>()
            .unwrap()
    }

    fn of(rows: &[(usize, usize)], set: usize) -> Vec<usize> {
        let of = rows.iter().filter(|(found, _)| *found == set);
        of.map(|(_, row)| *row).collect()
    }

    #[test]
    fn the_first_exhausted_ends_it() {
        let found = rows(&[10, 1000], &[0.5, 0.5], StoppingStrategy::FirstExhausted);
        assert_eq!(of(&found, 0), (0..10).collect::<Vec<_>>());
        assert_eq!(found.last(), Some(&(0, 9)));
        let others = of(&found, 1);
        assert_eq!(others, (0..others.len()).collect::<Vec<_>>());
        assert!((3..30).contains(&others.len()), "{}", others.len());
    }

    #[test]
    fn all_exhausted_begins_again() {
        let found = rows(&[3, 300], &[0.25, 0.75], StoppingStrategy::AllExhausted);
        assert_eq!(of(&found, 1), (0..300).collect::<Vec<_>>());
        let few = of(&found, 0);
        assert!((60..140).contains(&few.len()), "{}", few.len());
        assert_eq!(few[..7], [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(
            found,
            rows(&[3, 300], &[0.25, 0.75], StoppingStrategy::AllExhausted)
        );
    }

    #[test]
    fn numbers_that_do_not_fit() {
        let error = |probabilities: &[f64]| {
            let mix = Mix {
                probabilities: probabilities.to_vec(),
                stopping: StoppingStrategy::default(),
            };
            mix.check(2).unwrap_err().to_string()
        };
        assert!(error(&[1.0]).contains("has 1 numbers and dataset 2 entries"));
        assert!(error(&[0.5, 0.6]).contains("adds up to 1.1"));
        assert!(error(&[1.5, -0.5]).contains("above 0"));
        assert!("never".parse::<StoppingStrategy>().is_err());
    }
}
