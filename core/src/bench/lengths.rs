//! The sequences of a measurement: how long they are, and random tokens in them.

use crate::ops::philox;
use anyhow::{Result, bail, ensure};
use apus_sdk::TokenRow;

/// The stream of random lengths: "leng".
const LENGTHS: u64 = 0x6c65_6e67;
/// The stream of random tokens: "toke".
const TOKENS: u64 = 0x746f_6b65;

/// How long sequences are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    shortest: usize,
    longest: usize,
}

impl Lengths {
    /// Reads `4096`, or `64:4096` for lengths from a range.
    ///
    /// # Errors
    /// Neither, or a range from long to short.
    pub fn parse(text: &str) -> Result<Self> {
        let (shortest, longest) = text.split_once(':').unwrap_or((text, text));
        let (Ok(shortest), Ok(longest)) = (shortest.trim().parse(), longest.trim().parse()) else {
            bail!("seq is {text:?}, expected a length such as 4096, or a range such as 64:4096");
        };
        ensure!(
            2 <= shortest && shortest <= longest,
            "seq is {text:?}, expected lengths of 2 or more, the shorter one first"
        );
        Ok(Self { shortest, longest })
    }

    /// The longest that can come.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether all are as long.
    pub fn fixed(&self) -> bool {
        self.shortest == self.longest
    }

    /// The lengths of the sequences of a step. Their logarithms are spread evenly over the range, which is
    /// roughly how conversations are: there are about as many from 64 to 128 tokens as from 2,048 to 4,096.
    pub fn draw(&self, count: usize, seed: u64, step: usize) -> Vec<usize> {
        let (low, high) = ((self.shortest as f64).ln(), (self.longest as f64).ln());
        (0..count)
            .map(|at| {
                let [word, ..] = philox::block(seed, LENGTHS, (step * count + at) as u64);
                let length = (low + f64::from(philox::unit(word)) * (high - low)).exp();
                (length.round() as usize).clamp(self.shortest, self.longest)
            })
            .collect()
    }
}

/// Sequences of random tokens; each token is trained with probability `share`.
pub fn rows(
    lengths: &[usize],
    share: f64,
    vocabulary: usize,
    (seed, step): (u64, usize),
) -> Vec<TokenRow> {
    let mut at = (step as u64) << 32;
    let mut row = |&length: &usize| {
        let (mut input_ids, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..length {
            let [word, chance, ..] = philox::block(seed, TOKENS, at);
            at += 1;
            let id = (u64::from(word) * vocabulary as u64) >> 32;
            let trained = f64::from(philox::unit(chance)) < share;
            input_ids.push(id as u32);
            labels.push(if trained { id as i64 } else { -100 });
        }
        TokenRow {
            input_ids,
            labels,
            loss_scale: None,
        }
    };
    lengths.iter().map(&mut row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        let read = |text: &str| Lengths::parse(text);
        assert!(read("4096").unwrap().fixed());
        assert_eq!(read("64:4096").unwrap().longest(), 4096);
        for wrong in ["", "long", "64:", "1", "100:10", "64:128:256"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("seq is {wrong:?}")), "{error}");
        }
    }

    #[test]
    fn short_ones_are_as_frequent_as_long_ones() {
        let drawn = Lengths::parse("64:4096").unwrap().draw(6000, 1, 0);
        assert!(drawn.iter().all(|length| (64..=4096).contains(length)));
        let share = |low: usize, high: usize| {
            drawn.iter().filter(|&&l| l >= low && l < high).count() as f64 / 6000.0
        };
        for (low, high) in [(64, 128), (512, 1024), (2048, 4096)] {
            assert!((share(low, high) - 1.0 / 6.0).abs() < 0.02, "{low}");
        }
        assert_eq!(Lengths::parse("7").unwrap().draw(2, 1, 0), [7, 7]);
    }

    #[test]
    fn rows_repeat_and_are_trained_in_part() {
        let found = rows(&[500, 300], 0.25, 1000, (3, 4));
        assert_eq!(found, rows(&[500, 300], 0.25, 1000, (3, 4)));
        assert_ne!(found, rows(&[500, 300], 0.25, 1000, (3, 5)));
        let labels: Vec<i64> = found.iter().flat_map(|row| row.labels.clone()).collect();
        let ids: Vec<u32> = found.iter().flat_map(|row| row.input_ids.clone()).collect();
        assert!(ids.iter().all(|&id| id < 1000) && ids.iter().any(|&id| id > 900));
        let trained = labels.iter().filter(|&&label| label >= 0).count();
        assert!((150..250).contains(&trained), "{trained}");
        assert!(rows(&[9], 1.0, 5, (1, 1))[0].labels.iter().all(|&l| l >= 0));
    }
}
