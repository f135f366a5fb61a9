//! `+`, `-`, `*` and `/` on tensors, with broadcasting, and with a number on either side.
//!
//! An operation can fail, so an operator gives a [`Result`]. The next one takes it as it is beside a tensor, on either
//! side: `&a * &b + &c` and `&a + &b * 2.0`. Rust has no place for operators between two results, or between a result
//! and a number: there the left side gets a `?`, as in `(&a * &b)? + &c * 2.0`.

use super::Tensor;
use crate::Result;
use std::ops::{Add, Div, Mul, Neg, Sub};

macro_rules! operators {
    ($($Trait:ident $function:ident: |$x:ident, $number:ident| $right:expr, $left:expr;)*) => {$(
        operators! { tensors: $Trait $function for &Tensor, &Tensor }
        operators! { tensors: $Trait $function for &Tensor, Tensor }
        operators! { tensors: $Trait $function for Tensor, &Tensor }
        operators! { tensors: $Trait $function for Tensor, Tensor }
        operators! { results: $Trait $function for &Tensor }
        operators! { results: $Trait $function for Tensor }
        operators! { numbers: $Trait $function for &Tensor, |$x, $number| $right, $left }
        operators! { numbers: $Trait $function for Tensor, |$x, $number| $right, $left }
    )*};
    (tensors: $Trait:ident $function:ident for $Lhs:ty, $Rhs:ty) => {
        impl $Trait<$Rhs> for $Lhs {
            type Output = Result<Tensor>;

            fn $function(self, rhs: $Rhs) -> Result<Tensor> {
                Tensor::$function(&self, &rhs)
            }
        }
    };
    (results: $Trait:ident $function:ident for $Tensor:ty) => {
        impl $Trait<Result<Tensor>> for $Tensor {
            type Output = Result<Tensor>;

            fn $function(self, rhs: Result<Tensor>) -> Result<Tensor> {
                Tensor::$function(&self, &rhs?)
            }
        }

        impl $Trait<$Tensor> for Result<Tensor> {
            type Output = Result<Tensor>;

            fn $function(self, rhs: $Tensor) -> Result<Tensor> {
                Tensor::$function(&self?, &rhs)
            }
        }
    };
    (numbers: $Trait:ident $function:ident for $Tensor:ty, |$x:ident, $number:ident| $right:expr, $left:expr) => {
        impl $Trait<f64> for $Tensor {
            type Output = Result<Tensor>;

            fn $function(self, $number: f64) -> Result<Tensor> {
                let $x = self;
                $right
            }
        }

        impl $Trait<$Tensor> for f64 {
            type Output = Result<Tensor>;

            fn $function(self, $x: $Tensor) -> Result<Tensor> {
                let $number = self;
                $left
            }
        }
    };
}
operators! {
    Add add: |x, number| x.affine(1.0, number), x.affine(1.0, number);
    Sub sub: |x, number| x.affine(1.0, -number), x.affine(-1.0, number);
    Mul mul: |x, number| x.affine(number, 0.0), x.affine(number, 0.0);
    Div div: |x, number| x.affine(1.0 / number, 0.0), x.recip()?.affine(number, 0.0);
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;

    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

impl Neg for Tensor {
    type Output = Result<Tensor>;

    fn neg(self) -> Result<Tensor> {
        Tensor::neg(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensor;

    fn values(result: Result<Tensor>) -> Vec<f32> {
        result.unwrap().to_vec().unwrap()
    }

    #[test]
    fn tensors_numbers_and_results_on_both_sides() {
        let (a, b) = (tensor(&[1.0f32, 2.0], &[2]), tensor(&[4.0f32, 8.0], &[2]));
        assert_eq!(values(&a + &b), [5.0, 10.0]);
        assert_eq!(values(&a - &b), [-3.0, -6.0]);
        assert_eq!(values(&a * &b), [4.0, 16.0]);
        assert_eq!(values(&a / &b), [0.25, 0.25]);
        assert_eq!(values(-&a), [-1.0, -2.0]);
        assert_eq!(values(&a + 0.5), [1.5, 2.5]);
        assert_eq!(values(0.5 - &a), [-0.5, -1.5]);
        assert_eq!(values(&a - 0.5), [0.5, 1.5]);
        assert_eq!(values(3.0 * &a), values(&a * 3.0));
        assert_eq!(values(&b / 4.0), [1.0, 2.0]);
        assert_eq!(values(8.0 / &b), [2.0, 1.0]);
        assert_eq!(values(&a * &b + &a), [5.0, 18.0]);
        assert_eq!(values(&a - &b * 2.0), [-7.0, -14.0]);
        assert_eq!(values(b.sqr() / a.clone()), [16.0, 32.0]);
        assert_eq!(values(b.clone() - a.clone()), [3.0, 6.0]);
        let mixed = || ((&a * 0.75)? + &b * 0.25)? * 4.0;
        assert_eq!(values(mixed()), [7.0, 14.0]);
    }

    #[test]
    fn shapes_broadcast_and_the_first_error_is_the_one_that_comes_out() {
        let (row, column) = (
            tensor(&[1.0f32, 2.0], &[1, 2]),
            tensor(&[1.0f32, 3.0], &[2, 1]),
        );
        assert_eq!(values(&row * &column), [1.0, 2.0, 3.0, 6.0]);
        let wrong = tensor(&[1.0f32; 3], &[3]);
        let error = (&row + &wrong * &column + &row).unwrap_err().to_string();
        assert!(error.starts_with("Add of"), "{error}");
        let error = (&wrong - &row - &column).unwrap_err().to_string();
        assert!(error.starts_with("Sub of"), "{error}");
    }
}
