//! Parameters that a tuner has added to a layer. What is computed with them is differentiated by candle: its graph begins at copies of
//! the layer's input, output and parameters, and ends at what replaces them.

use super::param::Param;
use crate::ops::Groups;
use anyhow::{Context, Error, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// What a tuner computes in one layer. All tensors are f32.
pub trait Tuning: Debug + Send + Sync {
    /// What the layer reads in place of `x`.
    ///
    /// # Errors
    /// The tuner's own.
    fn input(&self, x: &Tensor, params: &[Tensor]) -> Result<Tensor>;

    /// What the layer gives in place of `y`.
    ///
    /// # Errors
    /// The tuner's own.
    fn output(&self, x: &Tensor, y: &Tensor, params: &[Tensor]) -> Result<Tensor>;

    /// The tuner's name.
    fn tuner(&self) -> &str;

    /// The number of matrices of the layer: one of each expert.
    fn matrices(&self) -> usize {
        1
    }

    /// The rows that the layer computes for a token: one for each expert that the token goes to.
    fn rows_per_token(&self) -> u64 {
        1
    }

    /// The numbers of the layer's inputs and outputs.
    fn widths(&self) -> (usize, usize);

    /// Whether [`initial`](Self::initial) is to be asked.
    fn makes_initial(&self) -> bool {
        false
    }

    /// What the parameters of a matrix `[O, I]` or of a block begin with, f32, of what was drawn.
    ///
    /// # Errors
    /// The tuner's own.
    fn initial(&self, weight: Option<&Tensor>, drawn: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let _ = weight;
        Ok(drawn)
    }
}

/// A tuner in a layer.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The path of the layer.
    pub module: String,
    /// What it computes.
    pub tuning: Arc<dyn Tuning>,
    /// The parameters, in the tuner's order.
    pub params: Vec<Arc<Param>>,
}

/// What [`Tuned::backward`] needs: a piece, or one of each matrix that has rows.
#[derive(Debug)]
pub struct Tape {
    pieces: Vec<Piece>,
}

/// The rows that go to one matrix.
#[derive(Debug)]
struct Piece {
    /// The number of the matrix.
    matrix: usize,
    rows: Range<usize>,
    /// The layer's input.
    x: Var,
    /// Its output, as the tuner was given it.
    y: Var,
    /// The parameters, f32.
    params: Vec<Var>,
    /// What replaces the input and the output.
    replaced: [Tensor; 2],
}

/// The bytes of a tape for so many rows, where a tuner of so many numbers is added to a layer of so many inputs and outputs: input, what
/// replaces it, output, what replaces it, and the parameters, all f32. What a tuner makes on its way to these is more.
pub fn tape_bytes(rows: u64, (inputs, outputs): (usize, usize), elements: u64) -> u64 {
    4 * (2 * rows * (inputs + outputs) as u64 + elements)
}

impl Tape {
    /// What the layer has read, f32.
    pub fn input(&self) -> Result<Tensor> {
        self.replaced(0)
    }

    /// What replaces the layer's output, f32.
    pub fn output(&self) -> Result<Tensor> {
        self.replaced(1)
    }

    fn replaced(&self, which: usize) -> Result<Tensor> {
        let parts = self.pieces.iter();
        let parts: Vec<Tensor> = parts.map(|p| p.replaced[which].detach()).collect();
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// The beginning of a graph: a copy in f32.
fn leaf(value: &Tensor) -> Result<Var> {
    Ok(Var::from_tensor(&value.to_dtype(DType::F32)?)?)
}

impl Tuned {
    /// The bytes of its tape for so many tokens, as [`tape_bytes`] says.
    pub fn tape_bytes(&self, tokens: u64) -> u64 {
        let params = self.params.iter();
        let elements: usize = params.map(|param| param.value().elem_count()).sum();
        let rows = tokens.saturating_mul(self.tuning.rows_per_token());
        tape_bytes(rows, self.tuning.widths(), elements as u64)
    }

    /// The output that replaces that of `layer` for `x`, and what `layer` tells of its own.
    ///
    /// # Errors
    /// The tuner's own, or what it gives has another shape or type.
    pub fn forward<T>(
        &self,
        x: &Tensor,
        layer: impl FnOnce(&Tensor) -> Result<(Tensor, T)>,
    ) -> Result<(Tensor, Tape, T)> {
        self.forward_by(x, None, layer)
    }

    /// The same for the matrices of experts, whose rows are in groups. The parameters `[E, ..]` have those of each matrix, and the
    /// tuner is asked once for each that has rows.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_grouped(
        &self,
        x: &Tensor,
        groups: &Groups,
        layer: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Tape)> {
        let (y, tape, ()) = self.forward_by(x, Some(groups), |x| Ok((layer(x)?, ())))?;
        Ok((y, tape))
    }

    fn forward_by<T>(
        &self,
        x: &Tensor,
        groups: Option<&Groups>,
        layer: impl FnOnce(&Tensor) -> Result<(Tensor, T)>,
    ) -> Result<(Tensor, Tape, T)> {
        let dtype = x.dtype();
        let parts = match groups {
            None => vec![(0, 0..x.dim(0)?)],
            Some(groups) => groups.filled()?.collect(),
        };
        let begin = |(matrix, rows): (usize, Range<usize>)| {
            let params = self.params.iter().map(|param| match groups {
                None => leaf(&param.value()),
                Some(_) => leaf(&param.value().get(matrix)?),
            });
            let params: Vec<Var> = params.collect::<Result<_>>()?;
            let x = leaf(&x.narrow(0, rows.start, rows.len())?)?;
            let input = self.tuning.input(&x, &given(&params))?;
            self.same("input", &input, &x)?;
            Ok((matrix, rows, x, params, input))
        };
        let begun: Vec<_> = parts.into_iter().map(begin).collect::<Result<_>>()?;
        // A tuner that leaves the input as it is leaves its bits, and takes no memory for a copy.
        let is_left = |(_, _, x, _, input): &(_, _, Var, _, Tensor)| input.id() == x.id();
        let read = match begun.iter().all(is_left) {
            true => x.clone(),
            false => {
                let inputs = begun.iter().map(|(.., input)| input.detach());
                Tensor::cat(&inputs.collect::<Vec<_>>(), 0)?.to_dtype(dtype)?
            }
        };
        let (y, told) = layer(&read)?;
        drop(read);
        let end =
            |(matrix, rows, x, params, input): (usize, Range<usize>, Var, Vec<Var>, Tensor)| {
                let y = leaf(&y.narrow(0, rows.start, rows.len())?)?;
                let output = self.tuning.output(&x, &y, &given(&params))?;
                self.same("output", &output, &y)?;
                let replaced = [input, output];
                Ok(Piece {
                    matrix,
                    rows,
                    x,
                    y,
                    params,
                    replaced,
                })
            };
        let pieces = begun.into_iter().map(end).collect::<Result<_>>()?;
        let tape = Tape { pieces };
        Ok((tape.output()?.to_dtype(dtype)?, tape, told))
    }

    /// The output that replaces that of `layer` for `x`, where nothing goes back.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn step(
        &self,
        x: &Tensor,
        layer: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (y, _, ()) = self.forward(x, |x| Ok((layer(x)?, ())))?;
        Ok(y)
    }

    fn same(&self, what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
        ensure!(
            found.dims() == expected.dims() && found.dtype() == DType::F32,
            "tuner {}, {what}: it gave {:?} {:?}, expected F32 {:?}",
            self.tuning.tuner(),
            found.dtype(),
            found.dims(),
            expected.dims()
        );
        Ok(())
    }

    /// Takes the gradient by the output that replaces the layer's to that by the layer's own output and, beside the layer, by its
    /// input; the parameters get theirs. `layer` takes the gradient by the layer's output to that by what the layer has read.
    ///
    /// # Errors
    /// A parameter that nothing depends on.
    pub fn backward(
        &self,
        tape: &Tape,
        dout: &Tensor,
        layer: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let dtype = dout.dtype();
        let of = |rows: &Range<usize>, whole: &Tensor| {
            Ok::<_, Error>(whole.narrow(0, rows.start, rows.len())?)
        };
        let dout = dout.to_dtype(DType::F32)?;
        let (mut by_output, mut dy) = (Vec::new(), Vec::new());
        for Piece {
            rows, y, replaced, ..
        } in &tape.pieces
        {
            let mut grads = pull(&replaced[1], &of(rows, &dout)?)?;
            let own = grads.remove(y);
            dy.push(own.map_or_else(|| y.zeros_like(), Ok)?.detach());
            by_output.push(grads);
        }
        let dy = Tensor::cat(&dy, 0)?.to_dtype(dtype)?;
        let dread = layer(&dy)?.to_dtype(DType::F32)?;
        let mut by_params: Vec<Vec<(usize, Tensor)>> = vec![Vec::new(); self.params.len()];
        let mut dx = Vec::new();
        for (piece, mut by_output) in tape.pieces.iter().zip(by_output) {
            let mut by_input = pull(&piece.replaced[0], &of(&piece.rows, &dread)?)?;
            let mut both = |leaf: &Var| {
                let parts = [by_output.remove(leaf), by_input.remove(leaf)];
                let parts = parts.into_iter().flatten().map(|part| Ok(part.detach()));
                parts.reduce(|a, b| a? + b?).transpose()
            };
            for (var, sums) in piece.params.iter().zip(&mut by_params) {
                sums.extend(both(var)?.map(|sum| (piece.matrix, sum)));
            }
            let own = both(&piece.x)?;
            dx.push(own.map_or_else(|| piece.x.zeros_like(), Ok)?.detach());
        }
        for (param, sums) in self.params.iter().zip(by_params) {
            if param.is_frozen() {
                continue;
            }
            let sum = whole(param.value().dims(), sums)?.with_context(|| {
                format!(
                    "tuner {}: no gradient reaches {}: what the tuner gives does not depend on it, or it passed through \
                     detach()",
                    self.tuning.tuner(),
                    param.name()
                )
            })?;
            param.accumulate(sum)?;
        }
        Ok(Tensor::cat(&dx, 0)?.to_dtype(dtype)?)
    }
}

fn given(params: &[Var]) -> Vec<Tensor> {
    let params = params.iter();
    params.map(|param| param.as_tensor().clone()).collect()
}

/// The gradient by a parameter of this shape from those by what it has of each matrix, zeros where a matrix had no rows; `None` if
/// there are none.
fn whole(shape: &[usize], sums: Vec<(usize, Tensor)>) -> Result<Option<Tensor>> {
    let Some((_, first)) = sums.first() else {
        return Ok(None);
    };
    if first.dims() == shape {
        return Ok(Some(first.clone()));
    }
    let mut all = vec![first.zeros_like()?; shape[0]];
    for (matrix, sum) in sums {
        all[matrix] = sum;
    }
    Ok(Some(Tensor::stack(&all, 0)?))
}

/// The gradients by the leaves that `y` was made of, from the gradient by `y`. That one may carry a graph of its own, since candle
/// makes gradients of tensors that are tracked: it must not be differentiated again.
fn pull(y: &Tensor, dy: &Tensor) -> Result<GradStore> {
    Ok((y * dy.detach())?.sum_all()?.backward()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Weight};
    use crate::ops::fill;
    use candle_core::Device;

    /// Scales the input, shifts it by a row's mean, and multiplies the output by a function of the input.
    #[derive(Debug)]
    struct Mixed;

    impl Tuning for Mixed {
        fn input(&self, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
            Ok(x.broadcast_mul(&params[0])?
                .broadcast_add(&x.mean_keepdim(1)?)?)
        }

        fn output(&self, x: &Tensor, y: &Tensor, params: &[Tensor]) -> Result<Tensor> {
            let gate = x.matmul(&params[1])?.tanh()?;
            Ok((y * gate)?.broadcast_add(&params[0].narrow(0, 0, 1)?)?)
        }

        fn tuner(&self) -> &str {
            "mixed"
        }

        fn widths(&self) -> (usize, usize) {
            (4, 3)
        }
    }

    fn random(shape: &[usize], stream: u64) -> Tensor {
        fill::normal(shape, 0.5, (3, stream), DType::F32, &Device::Cpu).unwrap()
    }

    fn layer(tuning: Arc<dyn Tuning>, shapes: &[&[usize]]) -> Linear {
        let params = shapes.iter().zip(10..).map(|(shape, stream)| {
            Param::new(format!("p{stream}"), &random(shape, stream), true).unwrap()
        });
        Linear {
            name: "linear".to_owned(),
            weight: Weight::Frozen(random(&[3, 4], 1)),
            bias: Some(Weight::Frozen(random(&[3], 2))),
            lora: None,
            tuned: Some(Tuned {
                module: "linear".to_owned(),
                tuning,
                params: params.collect(),
            }),
        }
    }

    /// The sum of outputs, each times a fixed number.
    fn total(layer: &Linear, x: &Tensor) -> f64 {
        let (y, _) = layer.forward(x, None).unwrap();
        let sum = (y * random(&[5, 3], 7)).unwrap().sum_all().unwrap();
        f64::from(sum.to_scalar::<f32>().unwrap())
    }

    /// The greatest gap between a gradient and finite differences by the elements of `at`.
    fn gap(gradient: &Tensor, at: &Tensor, total: &dyn Fn(&Tensor) -> f64) -> f64 {
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let flat: Vec<f32> = at.flatten_all().unwrap().to_vec1().unwrap();
        let gaps = gradient.iter().enumerate().map(|(place, found)| {
            let moved = |by: f32| {
                let mut flat = flat.clone();
                flat[place] += by;
                total(&Tensor::from_vec(flat, at.shape(), &Device::Cpu).unwrap())
            };
            let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            (expected - f64::from(*found)).abs()
        });
        assert!(gradient.iter().any(|value| value.abs() > 1e-3));
        gaps.fold(0.0, f64::max)
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let layer = layer(Arc::new(Mixed), &[&[4], &[4, 3]]);
        let x = random(&[5, 4], 4);
        let (_, tape) = layer.forward(&x, None).unwrap();
        let dx = layer.backward(&tape, &random(&[5, 3], 7)).unwrap();
        let by_input = gap(&dx, &x, &|x| total(&layer, x));
        assert!(by_input < 2e-3, "{by_input}");
        for param in &layer.tuned.as_ref().unwrap().params {
            let start = param.value().copy().unwrap();
            let by_param = |value: &Tensor| {
                param.set(value).unwrap();
                let sum = total(&layer, &x);
                param.set(&start).unwrap();
                sum
            };
            let by_param = gap(&param.grad().unwrap(), &start, &by_param);
            assert!(by_param < 2e-3, "{}: {by_param}", param.name());
        }
    }

    #[test]
    fn a_tape_takes_what_is_planned() {
        let layer = layer(Arc::new(Mixed), &[&[4], &[4, 3]]);
        let tuned = layer.tuned.as_ref().unwrap();
        let x = random(&[5, 4], 4);
        let (_, mut tape, ()) = tuned.forward(&x, |x| Ok((layer.base(x)?, ()))).unwrap();
        let Piece {
            x,
            y,
            params,
            replaced,
            ..
        } = tape.pieces.remove(0);
        assert!(tape.pieces.is_empty());
        let leaves = [x, y].into_iter().chain(params);
        let all = leaves.map(|leaf| leaf.as_tensor().clone()).chain(replaced);
        let bytes = all
            .map(|tensor| 4 * tensor.elem_count() as u64)
            .sum::<u64>();
        assert_eq!(bytes, tuned.tape_bytes(5));
    }

    #[derive(Debug)]
    struct Wrong(bool);

    impl Tuning for Wrong {
        fn input(&self, x: &Tensor, _params: &[Tensor]) -> Result<Tensor> {
            Ok(x.clone())
        }

        fn output(&self, _x: &Tensor, y: &Tensor, _params: &[Tensor]) -> Result<Tensor> {
            match self.0 {
                true => Ok(y.narrow(1, 0, 2)?),
                false => Ok(y.clone()),
            }
        }

        fn tuner(&self) -> &str {
            "wrong"
        }

        fn widths(&self) -> (usize, usize) {
            (4, 3)
        }
    }

    #[test]
    fn what_a_tuner_does_wrong_is_said_with_its_name() {
        let x = random(&[5, 4], 4);
        let thin = layer(Arc::new(Wrong(true)), &[&[4]]);
        let error = format!("{:#}", thin.forward(&x, None).unwrap_err());
        assert!(
            error.contains("linear: tuner wrong, output: it gave F32 [5, 2], expected F32 [5, 3]")
        );
        let idle = layer(Arc::new(Wrong(false)), &[&[4]]);
        let (_, tape) = idle.forward(&x, None).unwrap();
        let error = format!(
            "{:#}",
            idle.backward(&tape, &random(&[5, 3], 7)).unwrap_err()
        );
        assert!(
            error.contains("tuner wrong: no gradient reaches p10"),
            "{error}"
        );
    }
}
