//! How tensors travel among ranks.

use anyhow::Result;
use std::ffi::c_void;

/// Numbers on the device of a rank.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// In host memory.
    F32(&'a mut [f32]),
    /// In host memory.
    F64(&'a mut [f64]),
    /// In host memory.
    U8(&'a mut [u8]),
    /// On a card.
    Device(DeviceBuffer),
}

/// Numbers on a card. Collectives are queued on the stream, so that the host does not wait for them.
#[derive(Debug, Clone, Copy)]
pub struct DeviceBuffer {
    /// Where they begin.
    pub address: u64,
    /// How many there are.
    pub count: usize,
    /// Of which type.
    pub element: Element,
    /// The stream of all work on them, a `cudaStream_t`.
    pub stream: *mut c_void,
}

/// Types of numbers on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Bytes.
    U8,
    /// Whole numbers.
    U32,
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// What carries tensors: NCCL between cards, MPI between CPU processes. Every rank makes the same calls in the same order
/// with buffers of the same sizes.
pub trait Collectives {
    /// Its name and version, for people.
    fn name(&self) -> String;

    /// Adds up over all ranks, in place.
    ///
    /// # Errors
    /// A rank or the connection has failed, or the buffer is of a kind that this engine does not carry.
    fn sum(&self, values: Buffer) -> Result<()>;

    /// Adds up over all ranks, in place at `root`; what the others' buffers hold afterwards is not said.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    fn reduce(&self, values: Buffer, root: usize) -> Result<()>;

    /// Gives every rank what `root` has.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    fn broadcast(&self, values: Buffer, root: usize) -> Result<()>;

    /// Puts the parts of all ranks one after another, by rank; `all` is as long as all of them.
    ///
    /// # Errors
    /// As [`sum`](Self::sum); lengths that do not fit.
    fn gather(&self, part: Buffer, all: Buffer) -> Result<()>;

    /// Asks for errors that came up after a call.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    fn check(&self) -> Result<()>;

    /// Leaves the other ranks when all work is done.
    ///
    /// # Errors
    /// A rank or the connection has failed before.
    fn leave(self: Box<Self>) -> Result<()>;

    /// Gives up what is still going on, so that nothing waits for ranks that do not come.
    fn abort(&self);
}
