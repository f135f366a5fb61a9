//! Rows that lie group by group: the rows of each expert, one after another.
//!
//! Kernels read the sizes on the device. The host asks for them only where it has to, since that waits for
//! everything before.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::sync::{Arc, OnceLock};

/// Where groups of rows begin and end.
#[derive(Debug, Clone)]
pub struct Groups {
    offsets: Tensor,
    host: Arc<OnceLock<Vec<usize>>>,
    rows: usize,
}

impl Groups {
    /// Groups from their first rows and the end, `[G + 1]`.
    ///
    /// # Errors
    /// Offsets that do not ascend from 0.
    pub fn new(offsets: &[usize], device: &Device) -> Result<Self> {
        let rows = offsets.last().copied().unwrap_or(0);
        ensure!(
            offsets.len() > 1
                && offsets[0] == 0
                && offsets.is_sorted()
                && u32::try_from(rows).is_ok(),
            "groups of rows at {offsets:?}"
        );
        let on_device: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
        let host = OnceLock::new();
        let _ = host.set(offsets.to_vec());
        Ok(Self {
            offsets: Tensor::new(on_device.as_slice(), device)?,
            host: Arc::new(host),
            rows,
        })
    }

    /// All rows in one group.
    ///
    /// # Errors
    /// Out of memory.
    pub fn one(rows: usize, device: &Device) -> Result<Self> {
        Self::new(&[0, rows], device)
    }

    /// Groups of `rows` rows whose offsets `[G + 1]` u32 only the device knows.
    #[cfg(feature = "cuda")]
    pub fn on_device(offsets: Tensor, rows: usize) -> Self {
        Self {
            offsets,
            host: Arc::default(),
            rows,
        }
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.offsets.elem_count() - 1
    }

    /// Number of all rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `[G + 1]` u32 on the device.
    pub fn offsets(&self) -> &Tensor {
        &self.offsets
    }

    /// `[G + 1]` on the host; the first call waits for the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn host(&self) -> Result<&[usize]> {
        if let Some(offsets) = self.host.get() {
            return Ok(offsets);
        }
        let offsets = self.offsets.to_vec1::<u32>()?;
        let offsets = offsets.into_iter().map(|offset| offset as usize).collect();
        Ok(self.host.get_or_init(|| offsets))
    }

    /// The groups that have rows, with them.
    ///
    /// # Errors
    /// The device failed.
    pub fn filled(&self) -> Result<impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_> {
        let pairs = self.host()?.windows(2).enumerate();
        Ok(pairs
            .filter(|(_, pair)| pair[0] < pair[1])
            .map(|(group, pair)| (group, pair[0]..pair[1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_groups_are_passed_over() {
        let groups = Groups::new(&[0, 3, 3, 4], &Device::Cpu).unwrap();
        assert_eq!((groups.count(), groups.rows()), (3, 4));
        assert_eq!(
            groups.filled().unwrap().collect::<Vec<_>>(),
            [(0, 0..3), (2, 3..4)]
        );
        assert!(Groups::new(&[0, 3, 2], &Device::Cpu).is_err());
    }
}
