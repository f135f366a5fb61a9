//! Computes the angles of the rotary embedding, plain or with YaRN, as `_compute_yarn_parameters` of `transformers` does.

use crate::families::{Architecture, Rope, Yarn};
use crate::ops::rope::RopeTable;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::sync::Mutex;

/// The table of cosines and sines, which grows when longer sequences come.
#[derive(Debug)]
pub struct Angles {
    frequencies: Vec<f32>,
    factor: f64,
    limit: usize,
    device: Device,
    table: Mutex<Option<RopeTable>>,
}

impl Angles {
    /// Prepares the angles of a model.
    pub fn new(architecture: &Architecture, device: &Device) -> Self {
        let dim = architecture.layers[0].attention.heads.dim;
        let (frequencies, factor) = frequencies(&architecture.rope, dim);
        Self {
            frequencies,
            factor,
            limit: architecture.max_position_embeddings,
            device: device.clone(),
            table: Mutex::new(None),
        }
    }

    /// Returns a table of at least `positions` rows.
    ///
    /// # Errors
    /// There are more positions than the model's `max_position_embeddings`.
    pub fn table(&self, positions: usize) -> Result<RopeTable> {
        ensure!(
            positions <= self.limit,
            "a sequence of {positions} tokens is longer than the model's max_position_embeddings \
             ({}); lower max_length",
            self.limit
        );
        let mut table = self.table.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(table) = table.as_ref()
            && table.cos.dim(0)? >= positions
        {
            return Ok(table.clone());
        }
        let rows = positions.next_power_of_two().max(256).min(self.limit);
        let half = self.frequencies.len();
        let angle = |row: usize, i: usize| (row as f32 * self.frequencies[i]) as f64;
        let make = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values =
                (0..rows * half).map(|at| (f(angle(at / half, at % half)) * self.factor) as f32);
            Ok(Tensor::from_vec(
                values.collect::<Vec<_>>(),
                (rows, half),
                &self.device,
            )?)
        };
        let fresh = RopeTable {
            cos: make(f64::cos)?,
            sin: make(f64::sin)?,
        };
        Ok(table.insert(fresh).clone())
    }
}

/// The frequency of each pair of dimensions, and the factor on cosines and sines.
pub fn frequencies(rope: &Rope, dim: usize) -> (Vec<f32>, f64) {
    let plain = |i: usize| 1.0 / rope.theta.powf(2.0 * i as f64 / dim as f64);
    let Some(yarn) = &rope.yarn else {
        return ((0..dim / 2).map(|i| plain(i) as f32).collect(), 1.0);
    };
    let (low, high) = bounds(rope.theta, yarn, dim);
    let mixed = (0..dim / 2).map(|i| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (ramp * plain(i) / yarn.factor + (1.0 - ramp) * plain(i)) as f32
    });
    let factor = if yarn.factor <= 1.0 {
        1.0
    } else {
        0.1 * yarn.factor.ln() + 1.0
    };
    (mixed.collect(), factor)
}

/// The dimensions between which frequencies are interpolated.
fn bounds(theta: f64, yarn: &Yarn, dim: usize) -> (f64, f64) {
    let at = |rotations: f64| {
        dim as f64 * (yarn.original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (at(yarn.beta_fast), at(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    // A ramp of no width would divide by zero; transformers widens it in the same way.
    if low == high {
        (low, high + 0.001)
    } else {
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_with_yarn() {
        let yarn = Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 4096.0,
            truncate: false,
        };
        let rope = Rope {
            theta: 150_000.0,
            yarn: Some(yarn),
        };
        let (found, factor) = frequencies(&rope, 64);
        assert!((factor - 1.346_573_590_279_972_7).abs() < 1e-12);
        for (i, expected) in [
            (0, 1.0),
            (8, 0.050_813_3),
            (9, 0.031_705_7),
            (17, 1.293_19e-4),
            (18, 3.830_88e-5),
            (31, 3.023_51e-7),
        ] {
            let found = f64::from(found[i]);
            assert!((found - expected).abs() < 1e-5 * expected, "{i}: {found}");
        }
    }
}
