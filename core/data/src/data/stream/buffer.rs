//! A shuffle of bounded memory: the next row is drawn among the next few.

use crate::data::rng::Shuffle;
use anyhow::Result;

/// Draws from a buffer that is filled up from `rows`.
pub struct ShuffleBuffer<T> {
    rows: Box<dyn Iterator<Item = Result<T>> + Send>,
    kept: Vec<T>,
    size: usize,
    random: Shuffle,
}

impl<T> ShuffleBuffer<T> {
    /// A buffer of `size` rows.
    pub fn new(
        rows: Box<dyn Iterator<Item = Result<T>> + Send>,
        size: usize,
        random: Shuffle,
    ) -> Self {
        Self {
            rows,
            kept: Vec::new(),
            size,
            random,
        }
    }
}

impl<T> Iterator for ShuffleBuffer<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        while self.kept.len() < self.size {
            match self.rows.next() {
                Some(Ok(row)) => self.kept.push(row),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        if self.kept.is_empty() {
            return None;
        }
        let drawn = self.random.below(self.kept.len() as u64) as usize;
        Some(Ok(self.kept.swap_remove(drawn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once_and_none_early() {
        let order = |size, stream| -> Vec<usize> {
            let rows = Box::new((0..1000).map(Ok));
            ShuffleBuffer::new(rows, size, Shuffle::new(42, stream))
                .collect::<Result<_>>()
                .unwrap()
        };
        let drawn = order(50, 0);
        assert!(drawn.iter().enumerate().all(|(at, row)| *row < at + 50));
        assert_ne!(drawn, order(50, 1));
        assert_eq!(drawn, order(50, 0));
        assert_eq!(order(1, 0), (0..1000).collect::<Vec<_>>());
        let mut sorted = drawn;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }
}
