//! CPU ranks through the MPI of the system.

use crate::collectives::{Buffer, Collectives};
use anyhow::{Context, Result, bail, ensure};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Equivalence, Root};
use std::mem::ManuallyDrop;

/// MPI, from its start until this rank leaves the others ([`leave`](Collectives::leave)). A rank that ends in another way does
/// not end MPI, which would wait for ranks that do not come.
pub struct Mpi {
    universe: ManuallyDrop<Universe>,
    world: SimpleCommunicator,
}

impl Mpi {
    /// Starts MPI. Only the thread that calls this may use it.
    ///
    /// # Errors
    /// It was started before, or cannot be.
    pub fn start() -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) =
            started.context("MPI cannot be started a second time in one process")?;
        let world = universe.world();
        let universe = ManuallyDrop::new(universe);
        Ok(Self { universe, world })
    }

    /// This process, and how many there are, as mpirun has started them.
    pub fn place(&self) -> (usize, usize) {
        (self.world.rank() as usize, self.world.size() as usize)
    }

    /// What rank 0 gives, at every rank.
    pub fn broadcast_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let root = self.world.process_at_rank(0);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        root.broadcast_into(&mut bytes[..]);
        bytes
    }

    fn sum_of<T: Equivalence + Copy>(&self, values: &mut [T]) {
        let own = values.to_vec();
        self.world
            .all_reduce_into(&own[..], values, SystemOperation::sum());
    }

    fn sum_at<T: Equivalence + Copy>(&self, values: &mut [T], root: i32) {
        let sum = SystemOperation::sum();
        let process = self.world.process_at_rank(root);
        match self.world.rank() == root {
            true => {
                let own = values.to_vec();
                process.reduce_into_root(&own[..], values, sum);
            }
            false => process.reduce_into(&*values, sum),
        }
    }
}

impl Collectives for Mpi {
    fn name(&self) -> String {
        let version = mpi::environment::library_version().unwrap_or_else(|_| "MPI".to_owned());
        version.split(',').next().unwrap_or("MPI").trim().to_owned()
    }

    fn sum(&self, values: Buffer) -> Result<()> {
        match values {
            Buffer::F32(values) => self.sum_of(values),
            Buffer::F64(values) => self.sum_of(values),
            Buffer::U8(_) => bail!("bytes are not added up"),
            Buffer::Device(_) => bail!("MPI carries host memory, and this buffer is on a card"),
        }
        Ok(())
    }

    fn reduce(&self, values: Buffer, root: usize) -> Result<()> {
        let root = i32::try_from(root)?;
        match values {
            Buffer::F32(values) => self.sum_at(values, root),
            Buffer::F64(values) => self.sum_at(values, root),
            Buffer::U8(_) => bail!("bytes are not added up"),
            Buffer::Device(_) => bail!("MPI carries host memory, and this buffer is on a card"),
        }
        Ok(())
    }

    fn broadcast(&self, values: Buffer, root: usize) -> Result<()> {
        let root = self.world.process_at_rank(i32::try_from(root)?);
        match values {
            Buffer::F32(values) => root.broadcast_into(values),
            Buffer::F64(values) => root.broadcast_into(values),
            Buffer::U8(values) => root.broadcast_into(values),
            Buffer::Device(_) => bail!("MPI carries host memory, and this buffer is on a card"),
        }
        Ok(())
    }

    fn gather(&self, part: Buffer, all: Buffer) -> Result<()> {
        let size = self.place().1;
        let fits = |part: usize, all: usize| {
            ensure!(part * size == all, "{size} parts of {part} make no {all}");
            Ok(())
        };
        match (part, all) {
            (Buffer::F32(part), Buffer::F32(all)) => {
                fits(part.len(), all.len())?;
                self.world.all_gather_into(&*part, all);
            }
            (Buffer::F64(part), Buffer::F64(all)) => {
                fits(part.len(), all.len())?;
                self.world.all_gather_into(&*part, all);
            }
            (Buffer::U8(part), Buffer::U8(all)) => {
                fits(part.len(), all.len())?;
                self.world.all_gather_into(&*part, all);
            }
            (part, all) => bail!("{part:?} and {all:?} are no buffers of one type in host memory"),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn leave(self: Box<Self>) -> Result<()> {
        drop(ManuallyDrop::into_inner(self.universe));
        Ok(())
    }

    fn abort(&self) {
        self.world.abort(1);
    }
}
