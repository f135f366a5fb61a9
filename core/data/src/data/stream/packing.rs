//! Packs the samples of a stream: they are gathered until there are tokens for many rows, and packed
//! together. The emptiest row waits for the next samples.

use crate::chat::Encoded;
use crate::data::{pack::pack, report::Packing};

/// The number of rows whose tokens are gathered before any is packed.
const ROWS: usize = 64;

/// Gathers samples and packs them. Which samples share a row depends on the samples alone.
pub struct Packer {
    capacity: usize,
    gathered: Vec<Encoded>,
    tokens: usize,
    /// What was packed so far.
    pub figures: Packing,
}

impl Packer {
    /// Makes a packer for rows of this many tokens.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            gathered: Vec::new(),
            tokens: 0,
            figures: Packing {
                max_length: capacity,
                ..Packing::default()
            },
        }
    }

    /// Adds a sample, and returns rows once enough samples are gathered.
    pub fn push(&mut self, sample: Encoded) -> Vec<Vec<Encoded>> {
        self.tokens += sample.len();
        self.gathered.push(sample);
        if self.tokens < ROWS * self.capacity {
            return Vec::new();
        }
        let mut rows = self.pack_gathered();
        if rows.len() > 1 {
            let emptiest = (0..rows.len()).min_by_key(|&row| tokens(&rows[row]));
            self.gathered = emptiest.map(|row| rows.remove(row)).unwrap_or_default();
            self.tokens = tokens(&self.gathered);
        }
        self.count(&rows);
        rows
    }

    /// Packs the samples that are left at the end of a pass.
    pub fn finish(&mut self) -> Vec<Vec<Encoded>> {
        let rows = self.pack_gathered();
        self.count(&rows);
        rows
    }

    /// Packs the gathered samples, in the order of the rows' first samples: best fit alone would put the longest samples
    /// first.
    fn pack_gathered(&mut self) -> Vec<Vec<Encoded>> {
        let lengths: Vec<usize> = self.gathered.iter().map(Encoded::len).collect();
        let mut packs = pack(&lengths, self.capacity);
        packs.iter_mut().for_each(|pack| pack.sort_unstable());
        packs.sort_unstable();
        self.tokens = 0;
        let mut samples: Vec<_> = self.gathered.drain(..).map(Some).collect();
        let row = |pack: Vec<usize>| {
            pack.into_iter()
                .filter_map(|index| samples[index].take())
                .collect()
        };
        packs.into_iter().map(row).collect()
    }

    fn count(&mut self, rows: &[Vec<Encoded>]) {
        self.figures.rows += rows.len();
        self.figures.samples += rows.iter().map(Vec::len).sum::<usize>();
        self.figures.tokens += rows.iter().map(|row| tokens(row)).sum::<usize>();
    }
}

fn tokens(row: &[Encoded]) -> usize {
    row.iter().map(Encoded::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(number: usize, length: usize) -> Encoded {
        Encoded {
            input_ids: vec![number as u32; length],
            ..Encoded::default()
        }
    }

    proptest! {
        #[test]
        fn no_sample_is_lost_and_no_row_is_too_long(lengths in prop::collection::vec(1usize..100, 0..800)) {
            let mut packer = Packer::new(100);
            let mut rows = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                rows.extend(packer.push(sample(number, *length)));
                prop_assert!(packer.tokens < (ROWS + 1) * 100);
            }
            rows.extend(packer.finish());
            prop_assert!(rows.iter().all(|row| !row.is_empty() && tokens(row) <= 100));
            let figures = packer.figures;
            prop_assert_eq!(figures.rows, rows.len());
            prop_assert_eq!(figures.tokens, lengths.iter().sum::<usize>());
            let mut numbers: Vec<u32> = rows.concat().iter().map(|sample| sample.input_ids[0]).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..lengths.len() as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rows_are_nearly_full() {
        let mut packer = Packer::new(1000);
        let lengths = (0..3000).map(|i: usize| 20 + i * 7919 % 600);
        for (number, length) in lengths.enumerate() {
            packer.push(sample(number, length));
        }
        assert!(packer.figures.rows > 800);
        assert!(packer.figures.efficiency() > 0.98, "{:?}", packer.figures);
    }
}
