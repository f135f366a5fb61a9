//! Shuffles in bounded memory: the next row is drawn from a buffer of rows.

use crate::data::rng::Shuffle;
use anyhow::Result;

/// Draws rows from a buffer that is refilled from `rows`.
pub struct ShuffleBuffer<T> {
    rows: Box<dyn Iterator<Item = Result<T>> + Send>,
    buffer: Vec<T>,
    size: usize,
    random: Shuffle,
}

impl<T> ShuffleBuffer<T> {
    /// Makes a buffer for `size` rows.
    pub fn new(
        rows: Box<dyn Iterator<Item = Result<T>> + Send>,
        size: usize,
        random: Shuffle,
    ) -> Self {
        Self {
            rows,
            buffer: Vec::new(),
            size,
            random,
        }
    }
}

impl<T> Iterator for ShuffleBuffer<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        while self.buffer.len() < self.size {
            match self.rows.next() {
                Some(Ok(row)) => self.buffer.push(row),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let drawn = self.random.below(self.buffer.len() as u64) as usize;
        Some(Ok(self.buffer.swap_remove(drawn)))
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
