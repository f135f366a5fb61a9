//! The SDK's [`Tensor`](apus_sdk::Tensor) handle on top of candle.

use apus_sdk::{AdamW, Binary, DType, Error, Reduce, Result, TensorOps, Unary};
use candle_core::Tensor;

/// A component's handle on this tensor.
pub fn wrap(tensor: Tensor) -> apus_sdk::Tensor {
    apus_sdk::Tensor::from_host(Host(tensor))
}

/// The tensor behind a handle.
///
/// # Errors
/// A handle that another host made.
pub fn unwrap(tensor: &apus_sdk::Tensor) -> Result<&Tensor> {
    match tensor.host().downcast_ref::<Host>() {
        Some(Host(tensor)) => Ok(tensor),
        None => Err(Error::new("this tensor was not made by this host")),
    }
}

struct Host(Tensor);

fn error(source: candle_core::Error) -> Error {
    Error::new(source)
}

fn checked(result: candle_core::Result<Tensor>) -> Result<apus_sdk::Tensor> {
    result.map(wrap).map_err(error)
}

fn dtype(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F32 => candle_core::DType::F32,
        DType::BF16 => candle_core::DType::BF16,
        DType::I64 => candle_core::DType::I64,
        DType::U32 => candle_core::DType::U32,
        DType::Bool => candle_core::DType::U8,
    }
}

impl TensorOps for Host {
    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn dtype(&self) -> DType {
        match self.0.dtype() {
            candle_core::DType::BF16 => DType::BF16,
            candle_core::DType::I64 => DType::I64,
            candle_core::DType::U32 => DType::U32,
            candle_core::DType::U8 => DType::Bool,
            _ => DType::F32,
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn unary(&self, op: Unary) -> Result<apus_sdk::Tensor> {
        let x = &self.0;
        checked(match op {
            Unary::Neg => x.neg(),
            Unary::Exp => x.exp(),
            Unary::Log => x.log(),
            Unary::Sqrt => x.sqrt(),
            Unary::Sqr => x.sqr(),
            Unary::Abs => x.abs(),
            Unary::Sign => x.sign(),
            Unary::Tanh => x.tanh(),
            // By tanh, which neither overflows nor lacks a gradient.
            Unary::Sigmoid => (x * 0.5).and_then(|x| x.tanh()).and_then(|x| x.affine(0.5, 0.5)),
            Unary::Recip => x.recip(),
        })
    }

    fn binary(&self, op: Binary, rhs: &apus_sdk::Tensor) -> Result<apus_sdk::Tensor> {
        let (a, b) = (&self.0, unwrap(rhs)?);
        checked(match op {
            Binary::Add => a.broadcast_add(b),
            Binary::Sub => a.broadcast_sub(b),
            Binary::Mul => a.broadcast_mul(b),
            Binary::Div => a.broadcast_div(b),
            Binary::Maximum => a.broadcast_maximum(b),
            Binary::Minimum => a.broadcast_minimum(b),
        })
    }

    fn affine(&self, mul: f64, add: f64) -> Result<apus_sdk::Tensor> {
        checked(self.0.affine(mul, add))
    }

    fn matmul(&self, rhs: &apus_sdk::Tensor) -> Result<apus_sdk::Tensor> {
        checked(self.0.broadcast_matmul(unwrap(rhs)?))
    }

    fn reduce(&self, op: Reduce, dim: usize) -> Result<apus_sdk::Tensor> {
        checked(match op {
            Reduce::Sum => self.0.sum_keepdim(dim),
            Reduce::Mean => self.0.mean_keepdim(dim),
            Reduce::Max => self.0.max_keepdim(dim),
            Reduce::Min => self.0.min_keepdim(dim),
        })
    }

    fn log_softmax(&self, dim: usize) -> Result<apus_sdk::Tensor> {
        let x = &self.0;
        // The maximum is a constant to the gradient: it cancels.
        let shifted = x.max_keepdim(dim).and_then(|max| x.broadcast_sub(&max.detach()));
        checked(shifted.and_then(|shifted| {
            let sum = shifted.exp()?.sum_keepdim(dim)?.log()?;
            shifted.broadcast_sub(&sum)
        }))
    }

    fn gather(&self, dim: usize, index: &apus_sdk::Tensor) -> Result<apus_sdk::Tensor> {
        checked(self.0.gather(unwrap(index)?, dim))
    }

    fn reshape(&self, shape: &[usize]) -> Result<apus_sdk::Tensor> {
        checked(self.0.reshape(shape))
    }

    fn transpose(&self, a: usize, b: usize) -> Result<apus_sdk::Tensor> {
        checked(self.0.transpose(a, b))
    }

    fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<apus_sdk::Tensor> {
        checked(self.0.narrow(dim, start, len))
    }

    fn cast(&self, to: DType) -> Result<apus_sdk::Tensor> {
        checked(self.0.to_dtype(dtype(to)))
    }

    fn detach(&self) -> apus_sdk::Tensor {
        wrap(self.0.detach())
    }

    fn full_like(&self, value: f64) -> Result<apus_sdk::Tensor> {
        let zeros = Tensor::zeros(self.0.shape(), self.0.dtype(), self.0.device());
        checked(zeros.and_then(|zeros| if value == 0.0 { Ok(zeros) } else { zeros + value }))
    }

    fn to_vec_f32(&self) -> Result<Vec<f32>> {
        let flat = self.0.flatten_all().and_then(|x| x.to_dtype(candle_core::DType::F32));
        flat.and_then(|x| x.to_vec1()).map_err(error)
    }

    fn set(&self, src: &apus_sdk::Tensor) -> Result<()> {
        let src = unwrap(src)?;
        if src.dims() != self.0.dims() || src.dtype() != self.0.dtype() {
            return Err(Error::new(format!(
                "cannot set a tensor of {:?} {:?} to one of {:?} {:?}",
                self.0.dtype(),
                self.0.dims(),
                src.dtype(),
                src.dims()
            )));
        }
        crate::ops::copy::into(&self.0, src).map_err(Error::new)
    }

    fn adamw(
        &self,
        grad: &apus_sdk::Tensor,
        m: &apus_sdk::Tensor,
        v: &apus_sdk::Tensor,
        hyper: &AdamW,
    ) -> Result<()> {
        crate::ops::adamw::step(&self.0, unwrap(grad)?, unwrap(m)?, unwrap(v)?, hyper)
            .map_err(|e| Error::new(format!("{e:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn unary_functions_match_std() {
        type Case = (Unary, fn(f32) -> f32);
        let cases: [Case; 10] = [
            (Unary::Neg, |x| -x),
            (Unary::Exp, f32::exp),
            (Unary::Log, f32::ln),
            (Unary::Sqrt, f32::sqrt),
            (Unary::Sqr, |x| x * x),
            (Unary::Abs, f32::abs),
            (Unary::Sign, f32::signum),
            (Unary::Tanh, f32::tanh),
            (Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Unary::Recip, |x| 1.0 / x),
        ];
        let inputs = [0.25, 1.0, 3.5];
        for (op, expected) in cases {
            let found = Host(vector(&inputs)).unary(op).unwrap().to_vec_f32().unwrap();
            for (x, found) in inputs.iter().zip(found) {
                let expected = expected(*x);
                assert!((found - expected).abs() < 1e-5, "{op:?}({x}) = {found}, not {expected}");
            }
        }
    }

    #[test]
    fn binary_functions_broadcast() {
        let column = wrap(vector(&[1.0, 4.0]).reshape((2, 1)).unwrap());
        let row = wrap(vector(&[2.0, 3.0]));
        let cases = [
            (column.add(&row), [3.0, 4.0, 6.0, 7.0]),
            (column.sub(&row), [-1.0, -2.0, 2.0, 1.0]),
            (column.mul(&row), [2.0, 3.0, 8.0, 12.0]),
            (column.div(&row), [0.5, 1.0 / 3.0, 2.0, 4.0 / 3.0]),
            (column.maximum(&row), [2.0, 3.0, 4.0, 4.0]),
            (column.minimum(&row), [1.0, 1.0, 2.0, 3.0]),
        ];
        for (found, expected) in cases {
            let found = found.unwrap();
            assert_eq!(found.shape(), [2, 2]);
            assert_eq!(found.to_vec_f32().unwrap(), expected);
        }
    }

    #[test]
    fn log_softmax_is_stable_and_differentiable() {
        let x = Var::from_tensor(&vector(&[1000.0, 1001.0, 999.0])).unwrap();
        let y = wrap(x.as_tensor().clone()).log_softmax(0).unwrap();
        let expected = [-1.407_606, -0.407_606, -2.407_606];
        for (found, expected) in y.to_vec_f32().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4);
        }
        let grads = unwrap(&y.narrow(0, 1, 1).unwrap()).unwrap().backward().unwrap();
        let grad = grads.get(&x).unwrap().to_vec1::<f32>().unwrap();
        let expected = [-0.244_728, 1.0 - 0.665_241, -0.090_031];
        for (found, expected) in grad.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{grad:?}");
        }
    }

    #[test]
    fn set_changes_in_place_and_refuses_other_shapes() {
        let x = wrap(vector(&[1.0, 2.0]));
        let same = x.clone();
        x.set(&wrap(vector(&[5.0, 6.0]))).unwrap();
        assert_eq!(same.to_vec_f32().unwrap(), [5.0, 6.0]);
        let error = x.set(&wrap(vector(&[1.0]))).unwrap_err().to_string();
        assert!(error.contains("[2]") && error.contains("[1]"), "{error}");
    }

    #[test]
    fn shapes_and_types() {
        let x = wrap(Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap()).reshape(&[2, 3]).unwrap();
        assert_eq!(x.transpose(0, 1).unwrap().to_vec_f32().unwrap(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(x.narrow(1, 1, 2).unwrap().to_vec_f32().unwrap(), [1., 2., 4., 5.]);
        assert_eq!(x.sum(1).unwrap().to_vec_f32().unwrap(), [3., 12.]);
        assert_eq!(x.mean(0).unwrap().to_vec_f32().unwrap(), [1.5, 2.5, 3.5]);
        assert_eq!(x.max(1).unwrap().to_vec_f32().unwrap(), [2., 5.]);
        assert_eq!(x.min(1).unwrap().to_vec_f32().unwrap(), [0., 3.]);
        assert_eq!(x.cast(DType::BF16).unwrap().dtype(), DType::BF16);
        let index = wrap(Tensor::new(&[[2u32], [0]], &Device::Cpu).unwrap());
        assert_eq!(x.gather(1, &index).unwrap().to_vec_f32().unwrap(), [2., 3.]);
        let product = x.matmul(&x.transpose(0, 1).unwrap()).unwrap();
        assert_eq!(product.to_vec_f32().unwrap(), [5., 14., 14., 50.]);
    }
}
