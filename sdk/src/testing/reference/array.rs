//! A tensor of the reference host: shape, type, numbers.

use crate::{DType, Error, Result};
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whole numbers up to here are exact in f64.
const GREATEST: f64 = 9_007_199_254_740_992.0;

/// More elements than a test can want.
const MOST: usize = 1 << 28;

thread_local! {
    static UNROUNDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `act` with an F32 that is not rounded, so that small differences of results mean something.
pub fn unrounded<T>(act: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNROUNDED.set(self.0);
        }
    }
    let _restore = Restore(UNROUNDED.replace(true));
    act()
}

/// A tensor. Clones look at the same numbers.
#[derive(Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub dtype: DType,
    values: Arc<Mutex<Vec<f64>>>,
}

impl Array {
    /// A tensor of these numbers, row by row, rounded to its type.
    pub fn new(shape: Vec<usize>, dtype: DType, values: Vec<f64>) -> Result<Self> {
        if count(&shape)? != values.len() {
            let found = values.len();
            return Err(Error::new(format!(
                "{found} elements for a tensor {shape:?}"
            )));
        }
        let values = values.into_iter().map(|x| rounded(x, dtype));
        Ok(Self {
            shape,
            dtype,
            values: Arc::new(Mutex::new(values.collect::<Result<_>>()?)),
        })
    }

    /// The same numbers, not copies of them, in another shape.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        if count(&shape)? != count(&self.shape)? {
            return Err(Error::new(format!("has not as many elements as {shape:?}")));
        }
        Ok(Self {
            shape,
            ..self.clone()
        })
    }

    /// The numbers, row by row.
    pub fn values(&self) -> Vec<f64> {
        self.lock().clone()
    }

    /// Puts other numbers in their place, for all clones.
    pub fn set(&self, values: Vec<f64>) -> Result<()> {
        let values = values.into_iter().map(|x| rounded(x, self.dtype));
        let values = values.collect::<Result<_>>()?;
        *self.lock() = values;
        Ok(())
    }

    /// Whether both look at the same numbers.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<f64>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dimension that it has.
    pub fn dim(&self, dim: i64) -> Result<usize> {
        let found = usize::try_from(dim)
            .ok()
            .filter(|&dim| dim < self.shape.len());
        found.ok_or_else(|| Error::new(format!("there is no dimension {dim}")))
    }

    /// Refuses all but floats.
    pub fn floats(&self) -> Result<()> {
        match self.dtype {
            DType::F32 | DType::BF16 => Ok(()),
            _ => Err(Error::new("floats are needed")),
        }
    }

    /// Refuses truth values.
    pub fn numbers(&self) -> Result<()> {
        match self.dtype {
            DType::Bool => Err(Error::new("numbers are needed; cast the truth values")),
            _ => Ok(()),
        }
    }

    /// Refuses all but truth values.
    pub fn truths(&self) -> Result<()> {
        match self.dtype {
            DType::Bool => Ok(()),
            _ => Err(Error::new("truth values are needed")),
        }
    }

    /// From the elements' bytes.
    pub fn from_bytes(shape: Vec<usize>, dtype: DType, bytes: &[u8]) -> Result<Self> {
        if count(&shape)?.checked_mul(dtype.size()) != Some(bytes.len()) {
            let found = bytes.len();
            return Err(Error::new(format!("{found} bytes for {dtype:?}{shape:?}")));
        }
        let values = bytes
            .chunks_exact(dtype.size())
            .map(|bytes| match (dtype, bytes) {
                (DType::F32, &[a, b, c, d]) => f32::from_ne_bytes([a, b, c, d]).into(),
                (DType::BF16, &[a, b]) => bf16_to_f32(u16::from_ne_bytes([a, b])).into(),
                (DType::U32, &[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]).into(),
                (DType::I64, &[a, b, c, d, e, f, g, h]) => {
                    i64::from_ne_bytes([a, b, c, d, e, f, g, h]) as f64
                }
                (_, bytes) => bytes[0].into(),
            });
        Self::new(shape, dtype, values.collect())
    }

    /// The elements' bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.values().into_iter();
        let bytes = |x: f64| match self.dtype {
            DType::F32 => (x as f32).to_ne_bytes().to_vec(),
            DType::BF16 => f32_to_bf16(x as f32).to_ne_bytes().to_vec(),
            DType::I64 => (x as i64).to_ne_bytes().to_vec(),
            DType::U32 => (x as u32).to_ne_bytes().to_vec(),
            DType::Bool => vec![x as u8],
        };
        values.flat_map(bytes).collect()
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

/// Number of elements of a shape.
pub fn count(shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    match product {
        Some(count) if count <= MOST => Ok(count),
        _ => Err(Error::new(format!(
            "{shape:?} is too large for the reference host"
        ))),
    }
}

/// A number as an element of this type.
fn rounded(x: f64, dtype: DType) -> Result<f64> {
    let whole = |low: f64, high: f64| match x.trunc() {
        whole if (low..=high).contains(&whole) => Ok(whole),
        _ => Err(Error::new(format!("{x} does not fit {dtype:?}"))),
    };
    match dtype {
        DType::F32 if UNROUNDED.get() => Ok(x),
        DType::F32 => Ok(f64::from(x as f32)),
        DType::BF16 => Ok(f64::from(bf16_to_f32(f32_to_bf16(x as f32)))),
        DType::I64 => whole(-GREATEST, GREATEST),
        DType::U32 => whole(0.0, f64::from(u32::MAX)),
        DType::Bool => Ok(f64::from(u8::from(x != 0.0))),
    }
}

/// To the nearest, halves to even.
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let even = (bits >> 16) & 1;
    ((bits + 0x7fff + even) >> 16) as u16
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let round = |x: f64| rounded(x, DType::BF16).unwrap();
        // Seven bits after the point: 1/128 is the last.
        assert_eq!(round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(round(1.0 + 1.1 / 256.0), 1.0 + 2.0 / 256.0);
        assert_eq!(round(-257.0), -256.0);
        assert_eq!(round(f64::from(f32::MAX)), f64::INFINITY);
        assert_eq!(round(f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert!(round(f64::NAN).is_nan());
    }

    #[test]
    fn whole_numbers_that_do_not_fit_are_refused() {
        assert_eq!(rounded(-2.7, DType::I64).unwrap(), -2.0);
        assert!(rounded(-1.0, DType::U32).is_err());
        assert!(rounded(4_294_967_296.0, DType::U32).is_err());
        assert!(rounded(1e16, DType::I64).is_err());
        assert!(rounded(f64::NAN, DType::I64).is_err());
    }

    #[test]
    fn f32_is_left_alone_when_asked_for() {
        assert_ne!(rounded(0.1, DType::F32).unwrap(), 0.1);
        assert_eq!(unrounded(|| rounded(0.1, DType::F32).unwrap()), 0.1);
        assert_ne!(rounded(0.1, DType::F32).unwrap(), 0.1);
    }

    #[test]
    fn bytes_of_bf16_come_back() {
        let bytes = [0x80, 0x3f, 0x00, 0xc0];
        let x = Array::from_bytes(vec![2], DType::BF16, &bytes).unwrap();
        assert_eq!(x.values(), [1.0, -2.0]);
        assert_eq!(x.to_bytes(), bytes);
        assert!(Array::from_bytes(vec![3], DType::BF16, &bytes).is_err());
    }

    #[test]
    fn sizes_beyond_reason_are_refused() {
        assert!(count(&[1 << 40, 1 << 40]).is_err());
        assert!(count(&[usize::MAX, 2, 0]).is_err());
        assert_eq!(count(&[usize::MAX, 0]).unwrap(), 0);
        assert_eq!(count(&[]).unwrap(), 1);
    }
}
