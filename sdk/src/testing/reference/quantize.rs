//! Codes of 8 bits by a map of 256 numbers.

use super::Arguments;
use super::array::Array;
use crate::{DType, Error, Op, Result};

/// Numbers of a map.
const CODES: usize = 256;

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    let [x, map] = arguments.tensors()?;
    if map.dtype != DType::F32 || map.shape != [CODES] {
        return Err(Error::new("a map is F32[256]"));
    }
    let numbers = map.values();
    match op {
        Op::Quantize => {
            let values = x.values();
            if x.dtype != DType::F32 || !values.len().is_multiple_of(4) {
                return Err(Error::new("F32 and a multiple of four elements are needed"));
            }
            let packed = values.chunks(4).map(|four| {
                let places = four.iter().rev().map(|&value| nearest(&numbers, value));
                places.fold(0.0, |packed, place| packed * CODES as f64 + place as f64)
            });
            let packed: Vec<f64> = packed.collect();
            Array::new(vec![packed.len()], DType::U32, packed)
        }
        Op::Dequantize => {
            if x.dtype != DType::U32 {
                return Err(Error::new("codes are U32"));
            }
            let packed = x.values().into_iter().map(|packed| packed as u32);
            let found = packed.flat_map(|packed| packed.to_le_bytes());
            let found: Vec<f64> = found.map(|place| numbers[usize::from(place)]).collect();
            Array::new(vec![found.len()], DType::F32, found)
        }
        _ => Err(Error::new("not an operation on codes")),
    }
}

/// The place of the nearest number of a sorted map; the higher one in the middle between two.
fn nearest(map: &[f64], value: f64) -> usize {
    let below = map.partition_point(|number| *number <= value).max(1) - 1;
    match map.get(below + 1) {
        Some(above) if value - map[below] >= (above - map[below]) * 0.5 => below + 1,
        _ => below,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::tensor;

    #[test]
    fn the_nearest_number_comes_back() {
        let map: Vec<f32> = (0..256).map(|at| at as f32 / 128.0 - 1.0).collect();
        let map = tensor(&map, &[256]);
        let x = [-5.0f32, -1.0, 0.0, 0.003, 0.0045, 0.5, 0.99, 7.0];
        let codes = tensor(&x, &[2, 4]).quantize(&map).unwrap();
        assert_eq!(
            codes.to_vec::<u32>().unwrap()[0].to_le_bytes(),
            [0, 0, 128, 128]
        );
        let found = codes.dequantize(&map).unwrap();
        assert_eq!(found.shape(), [8]);
        let expected = [
            -1.0,
            -1.0,
            0.0,
            0.0,
            1.0 / 128.0,
            0.5,
            127.0 / 128.0,
            127.0 / 128.0,
        ];
        assert_eq!(found.to_vec::<f32>().unwrap(), expected);
        assert!(tensor(&[1.0f32; 3], &[3]).quantize(&map).is_err());
        assert!(tensor(&x, &[8]).quantize(&codes).is_err());
    }
}
