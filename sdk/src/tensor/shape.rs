//! Operations that move elements or look at them in another shape.

use super::{Op, Tensor};
use crate::{Error, Result};

fn ints(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|&size| size as i64).collect()
}

impl Tensor {
    /// The same elements in another shape.
    ///
    /// # Errors
    /// A shape with another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        self.call(Op::Reshape, &[], &ints(shape), &[])
    }

    /// The same elements in one dimension.
    ///
    /// # Errors
    /// Out of memory.
    pub fn flatten(&self) -> Result<Self> {
        self.reshape(&[self.elements()])
    }

    /// A dimension of length 1 more, before `dim`.
    ///
    /// # Errors
    /// `dim` is more than the number of dimensions.
    pub fn unsqueeze(&self, dim: usize) -> Result<Self> {
        let mut shape = self.shape().to_vec();
        if dim > shape.len() {
            return Err(Error::new(format!(
                "unsqueeze({dim}) of a tensor {shape:?}"
            )));
        }
        shape.insert(dim, 1);
        self.reshape(&shape)
    }

    /// Without dimension `dim`, which has length 1.
    ///
    /// # Errors
    /// It does not.
    pub fn squeeze(&self, dim: usize) -> Result<Self> {
        let mut shape = self.shape().to_vec();
        if shape.get(dim) != Some(&1) {
            return Err(Error::new(format!("squeeze({dim}) of a tensor {shape:?}")));
        }
        shape.remove(dim);
        self.reshape(&shape)
    }

    /// Dimensions in another order: the result's dimension `i` is this one's `dims[i]`.
    ///
    /// # Errors
    /// Not an order of all dimensions.
    pub fn permute(&self, dims: &[usize]) -> Result<Self> {
        self.call(Op::Permute, &[], &ints(dims), &[])
    }

    /// Swaps two dimensions.
    ///
    /// # Errors
    /// A dimension that the tensor does not have.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        let mut dims: Vec<usize> = (0..self.shape().len()).collect();
        if a.max(b) >= dims.len() {
            let shape = self.shape();
            return Err(Error::new(format!(
                "transpose({a}, {b}) of a tensor {shape:?}"
            )));
        }
        dims.swap(a, b);
        self.permute(&dims)
    }

    /// `len` entries of `dim` from `start`.
    ///
    /// # Errors
    /// A range outside the tensor.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Self> {
        self.call(Op::Narrow, &[], &ints(&[dim, start, len]), &[])
    }

    /// Repeated along dimensions of length 1, and along new ones in front.
    ///
    /// # Errors
    /// A shape that this one does not broadcast to.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        self.call(Op::BroadcastTo, &[], &ints(shape), &[])
    }

    /// Tensors one after another along `dim`.
    ///
    /// # Errors
    /// No tensor at all, or shapes that differ elsewhere than in `dim`.
    pub fn cat(tensors: &[&Self], dim: usize) -> Result<Self> {
        match tensors {
            [] => Err(Error::new("cat of no tensors")),
            [first, rest @ ..] => first.call(Op::Cat, rest, &[dim as i64], &[]),
        }
    }

    /// Tensors of one shape beside each other in a new dimension before `dim`.
    ///
    /// # Errors
    /// No tensor at all, or different shapes.
    pub fn stack(tensors: &[&Self], dim: usize) -> Result<Self> {
        let wide = tensors
            .iter()
            .map(|tensor| tensor.unsqueeze(dim))
            .collect::<Result<Vec<_>>>()?;
        Self::cat(&wide.iter().collect::<Vec<_>>(), dim)
    }
}
