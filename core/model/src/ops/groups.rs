//! Rows in groups, one group after another: an expert is a group.
//!
//! Kernels read the sizes of groups on the device. The host reads them only where it must, since it has to wait for all
//! earlier work of the device.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::sync::{Arc, OnceLock};

/// The first row of each group, and the end of the last one.
#[derive(Debug, Clone)]
pub struct Groups {
    offsets: Tensor,
    host: Arc<OnceLock<Vec<usize>>>,
    rows: usize,
}

impl Groups {
    /// Makes groups of their first rows and the end, `[G + 1]`.
    ///
    /// # Errors
    /// The offsets do not ascend from 0.
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

    /// Makes one group of all rows.
    pub fn one(rows: usize, device: &Device) -> Result<Self> {
        Self::new(&[0, rows], device)
    }

    /// Makes groups of `rows` rows whose offsets `[G + 1]` u32 only the device knows.
    #[cfg(feature = "cuda")]
    pub fn on_device(offsets: Tensor, rows: usize) -> Self {
        Self {
            offsets,
            host: Arc::default(),
            rows,
        }
    }

    /// The number of groups.
    pub fn count(&self) -> usize {
        self.offsets.elem_count() - 1
    }

    /// The number of all rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The offsets on the device, `[G + 1]` u32.
    pub fn offsets(&self) -> &Tensor {
        &self.offsets
    }

    /// The offsets on the host, `[G + 1]`; the first call waits for the device.
    pub fn host_offsets(&self) -> Result<&[usize]> {
        if let Some(offsets) = self.host.get() {
            return Ok(offsets);
        }
        let offsets = self.offsets.to_vec1::<u32>()?;
        let offsets = offsets.into_iter().map(|offset| offset as usize).collect();
        Ok(self.host.get_or_init(|| offsets))
    }

    /// The groups that have rows, each with its range of rows.
    pub fn filled(&self) -> Result<impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_> {
        let pairs = self.host_offsets()?.windows(2).enumerate();
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
