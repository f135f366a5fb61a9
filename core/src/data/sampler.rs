//! The order in which a run sees its samples.

use super::rng::Shuffle;

/// Streams of the seed: epochs count up from here.
const EPOCHS: u64 = 1 << 32;

/// An order for every epoch, from the seed alone, so that a resumed run goes on where it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampler {
    len: usize,
    seed: u64,
    shuffle: bool,
}

impl Sampler {
    /// Orders of `len` samples. Without `shuffle` every epoch is in the order of the dataset.
    pub fn new(len: usize, seed: u64, shuffle: bool) -> Self {
        Self { len, seed, shuffle }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The samples of an epoch (from 0), in order.
    pub fn epoch_order(&self, epoch: usize) -> Vec<usize> {
        if self.shuffle {
            Shuffle::new(self.seed, EPOCHS + epoch as u64).permutation(self.len)
        } else {
            (0..self.len).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_has_its_own_order() {
        let sampler = Sampler::new(50, 42, true);
        assert_eq!(sampler.epoch_order(3), sampler.epoch_order(3));
        assert_ne!(sampler.epoch_order(0), sampler.epoch_order(1));
        assert_ne!(
            sampler.epoch_order(0),
            Sampler::new(50, 7, true).epoch_order(0)
        );
        assert_eq!(Sampler::new(3, 42, false).epoch_order(9), [0, 1, 2]);
    }
}
