//! What a micro-batch is made of: examples, each a sample, or a packed row of samples.

use super::batch::{Sequence, sequence};
use apus_sdk::TokenRow;

/// The training examples of a run.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    rows: &'a [TokenRow],
    packs: Option<&'a [Vec<usize>]>,
}

impl<'a> Examples<'a> {
    /// Rows as they are, or packed: each pack lists the rows that one example holds.
    pub fn new(rows: &'a [TokenRow], packs: Option<&'a [Vec<usize>]>) -> Self {
        Self { rows, packs }
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.packs.map_or(self.rows.len(), <[_]>::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequences of an example.
    pub fn sequences(&self, example: usize) -> impl Iterator<Item = Sequence<'a>> {
        let rows = match self.packs {
            Some(packs) => packs[example].as_slice(),
            None => &[],
        };
        let alone = self.packs.is_none().then_some(example);
        let rows = rows.iter().copied().chain(alone);
        let all = self.rows;
        rows.map(move |row| sequence(&all[row]))
    }

    /// The tokens of each example.
    pub fn lengths(&self) -> Vec<usize> {
        let length = |example| self.sequences(example).map(|(ids, ..)| ids.len()).sum();
        (0..self.len()).map(length).collect()
    }
}

impl<'a> From<&'a [TokenRow]> for Examples<'a> {
    fn from(rows: &'a [TokenRow]) -> Self {
        Self::new(rows, None)
    }
}
