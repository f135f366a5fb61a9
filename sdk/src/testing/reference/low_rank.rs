//! Low-rank updates. One with a magnitude reads the weight of the layer that a test computes.

use super::Arguments;
use super::array::Array;
use crate::{DType, Error, Op, Result};
use std::cell::RefCell;

/// The weight `[O, I]` of a layer, row by row, and its bias.
struct Layer {
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
}

thread_local! {
    static LAYER: RefCell<Option<Layer>> = const { RefCell::new(None) };
}

/// Runs `act` in a layer of this weight and bias.
pub fn with_layer<T>(weight: &[f32], bias: Option<&[f32]>, act: impl FnOnce() -> T) -> T {
    struct Restore(Option<Layer>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LAYER.set(self.0.take());
        }
    }
    let numbers = |from: &[f32]| from.iter().copied().map(f64::from).collect();
    let layer = Layer {
        weight: numbers(weight),
        bias: bias.map(numbers),
    };
    let _restore = Restore(LAYER.replace(Some(layer)));
    act()
}

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    let (y, x, a, b, magnitude, scale) = match op {
        Op::LowRank => {
            let [y, x, a, b] = arguments.tensors()?;
            let [scale, dropout] = arguments.floats()?;
            if !(0.0..1.0).contains(&dropout) {
                return Err(Error::new(format!(
                    "the dropout is {dropout}, expected a share from 0 to below 1"
                )));
            }
            (y, x, a, b, None, scale)
        }
        Op::LowRankDecomposed => {
            let [y, x, a, b, magnitude] = arguments.tensors()?;
            let [scale] = arguments.floats()?;
            (y, x, a, b, Some(magnitude), scale)
        }
        _ => return Err(Error::new("not a low-rank update")),
    };
    let ([rows, outputs], [_, inputs], [rank, _]) = (&*y.shape, &*x.shape, &*a.shape) else {
        return Err(Error::new("matrices are needed"));
    };
    let shapes = [
        (x, vec![*rows, *inputs]),
        (a, vec![*rank, *inputs]),
        (b, vec![*outputs, *rank]),
    ];
    let mut shapes = shapes
        .into_iter()
        .chain(magnitude.map(|magnitude| (magnitude, vec![*outputs])));
    if let Some((found, expected)) = shapes.find(|(found, expected)| *found.shape != **expected) {
        return Err(Error::new(format!(
            "{found} is no part of it, expected {expected:?}"
        )));
    }
    if arguments
        .tensors
        .iter()
        .any(|tensor| tensor.dtype != DType::F32)
    {
        return Err(Error::new("F32 is needed"));
    }
    let (mut out, x, a, b) = (y.values(), x.values(), a.values(), b.values());
    let of = |from: &[f64], row: usize, column: usize, width: usize| from[row * width + column];
    for row in 0..*rows {
        let down = |at: usize| -> f64 {
            (0..*inputs)
                .map(|i| of(&x, row, i, *inputs) * of(&a, at, i, *inputs))
                .sum()
        };
        let down: Vec<f64> = (0..*rank).map(down).collect();
        for output in 0..*outputs {
            let up: f64 = down
                .iter()
                .enumerate()
                .map(|(at, down)| down * of(&b, output, at, *rank))
                .sum();
            out[row * outputs + output] += scale * up;
        }
    }
    if let Some(magnitude) = magnitude {
        let magnitude = magnitude.values();
        LAYER.with_borrow(|layer| -> Result<()> {
            let layer = layer
                .as_ref()
                .filter(|layer| layer.weight.len() == outputs * inputs);
            let layer = layer.ok_or_else(|| {
                Error::new("the layer's weight is known only where testing::tune computes a layer")
            })?;
            for output in 0..*outputs {
                let merged = (0..*inputs).map(|input| {
                    let delta: f64 = (0..*rank)
                        .map(|at| of(&b, output, at, *rank) * of(&a, at, input, *inputs))
                        .sum();
                    of(&layer.weight, output, input, *inputs) + scale * delta
                });
                let norm = merged.map(|value| value * value).sum::<f64>().sqrt();
                let bias = layer.bias.as_ref().map_or(0.0, |bias| bias[output]);
                for row in 0..*rows {
                    let at = row * outputs + output;
                    out[at] = (out[at] - bias) * magnitude[output] / norm + bias;
                }
            }
            Ok(())
        })?;
    }
    Array::new(y.shape.clone(), y.dtype, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::tensor;

    #[test]
    fn a_low_rank_update_is_its_formula() {
        let y = tensor(&[1.0f32, -1.0], &[1, 2]);
        let x = tensor(&[1.0f32, 2.0, 3.0], &[1, 3]);
        let a = tensor(&[1.0f32, 0.0, -1.0], &[1, 3]);
        let b = tensor(&[2.0f32, 5.0], &[2, 1]);
        let found = y.low_rank(&x, &a, &b, 0.5, 0.1).unwrap();
        assert_eq!(found.to_vec::<f32>().unwrap(), [-1.0, -6.0]);
        let said = |result: crate::Result<crate::Tensor>| result.unwrap_err().to_string();
        assert!(said(y.low_rank(&x, &b, &a, 0.5, 0.0)).contains("is no part of it"));
        assert!(said(y.low_rank(&x, &a, &b, 0.5, 1.0)).contains("the dropout is 1"));
        let magnitude = tensor(&[1.0f32, 1.0], &[2]);
        let alone = y.low_rank_decomposed(&x, &a, &b, &magnitude, 0.5);
        assert!(said(alone).contains("testing::tune"));
    }
}
