//! The ranks of a run: one process a card, or one process a share of the CPU's cores.
//!
//! Tensors travel through engines that exist, NCCL between cards and MPI between CPU processes ([`Collectives`]); everything
//! that is small travels over connections to rank 0 ([`Control`]), which also tell within seconds that a rank has died.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod alive;
pub mod collectives;
pub mod control;
mod frame;
mod hostlist;
#[cfg(unix)]
pub mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nccl;
#[cfg(unix)]
pub mod outputs;
pub mod place;
pub mod rendezvous;
pub mod watch;

pub use collectives::{Buffer, Collectives, DeviceBuffer, Element};
pub use control::Control;
pub use place::{Place, Role};
pub use watch::Limits;
