//! A handle on a tensor of the host.
//!
//! Components compute with tensors on whatever device the run uses without containing any tensor
//! library: the handle forwards every operation to the host. A loss written with it is
//! differentiated by the host. New tensors are made beside an existing one (`x.new_zeros(..)`), so
//! that they are where it is.

mod create;
mod dtype;
mod elementwise;
mod host;
mod index;
mod low_rank;
mod op;
mod operators;
mod reduce;
mod shape;
mod update;

pub use dtype::{DType, Element};
pub use host::{Handle, TensorHost, TensorHostRef, Wire};
pub use op::{Op, Update};

use crate::{Error, Result};
use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RSlice, RString};
use std::fmt;

/// A tensor of the host. Cloning copies the handle, not the data.
#[repr(C)]
#[derive(StableAbi)]
pub struct Tensor {
    handle: Handle,
    host: TensorHostRef,
}

// SAFETY: the host's tensors may be sent and shared between threads; its table says so by contract.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// Takes over a handle.
    ///
    /// # Safety
    /// `handle` was returned by a function of `host` that gives it away, and nobody else drops it.
    pub unsafe fn from_raw(handle: Handle, host: TensorHostRef) -> Self {
        Self { handle, host }
    }

    /// The handle, which stays this tensor's, and the host that knows it.
    pub fn raw(&self) -> (Handle, TensorHostRef) {
        (self.handle, self.host)
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        // SAFETY: the handle is this host's and lives as long as self.
        unsafe { self.host.shape()(self.handle) }.as_slice()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Element type.
    ///
    /// # Panics
    /// A host newer than this SDK has a type that it does not know.
    pub fn dtype(&self) -> DType {
        // SAFETY: the handle is this host's.
        let code = unsafe { self.host.dtype()(self.handle) };
        match DType::from_code(code) {
            Some(dtype) => dtype,
            None => {
                panic!("the host has an element type {code} that this plugin's SDK does not know")
            }
        }
    }

    /// Where it is: `cpu`, `cuda:0`.
    pub fn device(&self) -> String {
        // SAFETY: the handle is this host's.
        unsafe { self.host.device()(self.handle) }.into_string()
    }

    /// Carries out an operation on this tensor and more, with the numbers that go with it.
    ///
    /// The methods of this type are this call with names.
    ///
    /// # Errors
    /// What the host says: shapes or types that do not fit, out of memory. An operation that is newer
    /// than the host.
    pub fn call(&self, op: Op, more: &[&Tensor], ints: &[i64], floats: &[f64]) -> Result<Self> {
        self.needs(op.since(), op)?;
        let made = self.with(more, |handles| {
            // SAFETY: all handles are this host's and outlive the call.
            unsafe { self.host.call()(op as u32, handles, ints.into(), floats.into()) }
        })?;
        Ok(Self {
            handle: taken(made)?,
            host: self.host,
        })
    }

    fn update(&self, op: Update, more: &[&Tensor], ints: &[i64], floats: &[f64]) -> Result<()> {
        self.needs(op.since(), op)?;
        taken(self.with(more, |handles| {
            // SAFETY: all handles are this host's and outlive the call.
            unsafe { self.host.update()(op as u32, handles, ints.into(), floats.into()) }
        })?)
    }

    /// The handles of this tensor and more, all of one host.
    fn with<T>(&self, more: &[&Tensor], call: impl FnOnce(RSlice<'_, Handle>) -> T) -> Result<T> {
        if more.iter().any(|other| !other.host.same(self.host)) {
            return Err(Error::new(
                "the tensors of one operation come from different hosts",
            ));
        }
        let mut few = [self.handle; 5];
        if more.len() < few.len() {
            for (place, other) in few[1..].iter_mut().zip(more) {
                *place = other.handle;
            }
            return Ok(call(RSlice::from_slice(&few[..=more.len()])));
        }
        let mut many = vec![self.handle];
        many.extend(more.iter().map(|other| other.handle));
        Ok(call(RSlice::from_slice(&many)))
    }

    fn needs(&self, minor: u32, what: impl fmt::Debug) -> Result<()> {
        if minor <= self.host.minor() {
            return Ok(());
        }
        Err(Error::new(format!(
            "the tensor operation {what:?} needs a host with apus-sdk 1.{minor}, this one has 1.{}; \
             update Apus",
            self.host.minor()
        )))
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        Self {
            // SAFETY: the handle is this host's; the new one is this clone's.
            handle: unsafe { self.host.retain()(self.handle) },
            host: self.host,
        }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is this host's and is not used after.
        unsafe { self.host.release()(self.handle) }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.shape(), self.dtype())
    }
}

fn taken<T>(wire: RResult<T, RString>) -> Result<T> {
    match wire {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(message) => Err(Error::new(message)),
    }
}
