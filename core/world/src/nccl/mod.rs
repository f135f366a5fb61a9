//! Cards through NCCL.

mod library;

use crate::collectives::{Buffer, Collectives, DeviceBuffer, Element};
use anyhow::{Result, bail, ensure};
use library::{Code, Comm, Config, IN_PROGRESS, Nccl, SUCCESS, UniqueId};
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

/// `ncclSum`.
const SUM: c_int = 0;

/// Time between two questions whether a call has gone through, when it takes long.
const PAUSE: Duration = Duration::from_micros(200);

/// How long to ask without a pause: most calls have gone through by then, and the host has a backward pass to queue.
const BRISK: Duration = Duration::from_micros(500);

/// How long the ranks may take to find each other.
const PATIENCE: Duration = Duration::from_secs(120);

/// A communicator of this process's card with those of the others.
pub struct Cards {
    nccl: Nccl,
    comm: Comm,
    size: usize,
}

impl Cards {
    /// Opens the library and joins the other ranks; `share` gives every rank the id that rank 0 has made. The card is the
    /// current one of the calling thread.
    ///
    /// # Errors
    /// No library, or ranks that do not find each other; the error says what NCCL says.
    pub fn join(
        rank: usize,
        size: usize,
        share: impl FnOnce(Vec<u8>) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let nccl = Nccl::open()?;
        let mut id = UniqueId { bytes: [0; 128] };
        if rank == 0 {
            // SAFETY: the function fills the id that it is given.
            let code = unsafe { (nccl.functions.unique_id)(&raw mut id) };
            ensure!(
                code == SUCCESS,
                "NCCL {}: {}",
                nccl.version,
                nccl.describe(code, std::ptr::null_mut())
            );
        }
        let shared = share(id.bytes.to_vec())?;
        ensure!(
            shared.len() == id.bytes.len(),
            "an id of {} bytes, expected 128",
            shared.len()
        );
        id.bytes.copy_from_slice(&shared);
        let mut config = Config::non_blocking();
        let mut comm: Comm = std::ptr::null_mut();
        let (ranks, own) = (c_int::try_from(size)?, c_int::try_from(rank)?);
        // SAFETY: the arguments are as nccl.h has them; NCCL copies the configuration before it returns.
        let code = unsafe { (nccl.functions.init)(&raw mut comm, ranks, id, own, &raw mut config) };
        let cards = Self { nccl, comm, size };
        cards.done(code, PATIENCE)?;
        Ok(cards)
    }

    /// Waits until a call has gone through. What it has queued on a stream may still be going on.
    fn done(&self, code: Code, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let until = begun + patience;
        let mut code = code;
        while code == IN_PROGRESS {
            if Instant::now() > until {
                bail!(
                    "NCCL {}: no answer from the other ranks in {} s",
                    self.nccl.version,
                    patience.as_secs()
                );
            }
            match begun.elapsed() < BRISK {
                true => std::thread::yield_now(),
                false => std::thread::sleep(PAUSE),
            }
            code = self.state()?;
        }
        ensure!(
            code == SUCCESS,
            "NCCL {}: {}",
            self.nccl.version,
            self.nccl.describe(code, self.comm)
        );
        Ok(())
    }

    fn state(&self) -> Result<Code> {
        let mut code = SUCCESS;
        // SAFETY: the communicator lives as long as this; the function writes the one number that it is given.
        let result = unsafe { (self.nccl.functions.async_error)(self.comm, &raw mut code) };
        ensure!(
            result == SUCCESS,
            "NCCL {}: {}",
            self.nccl.version,
            self.nccl.describe(result, self.comm)
        );
        Ok(code)
    }

    /// Makes a call on numbers of this card in place, given their address, how many they are, their `ncclDataType_t` and the
    /// stream.
    fn in_place(
        &self,
        values: Buffer,
        call: impl FnOnce(*mut c_void, usize, c_int, *mut c_void) -> Code,
    ) -> Result<()> {
        let DeviceBuffer {
            address,
            count,
            element,
            stream,
        } = Self::device(values)?;
        let at = address as *mut c_void;
        self.done(call(at, count, data_type(element), stream), PATIENCE)
    }

    fn device(buffer: Buffer) -> Result<DeviceBuffer> {
        match buffer {
            Buffer::Device(buffer) => Ok(buffer),
            _ => bail!("NCCL carries memory of cards, and this buffer is in host memory"),
        }
    }
}

/// `ncclDataType_t`.
fn data_type(element: Element) -> c_int {
    match element {
        Element::U8 => 1,
        Element::U32 => 3,
        Element::F32 => 7,
        Element::Bf16 => 9,
    }
}

impl Collectives for Cards {
    fn name(&self) -> String {
        format!("NCCL {}", self.nccl.version)
    }

    fn sum(&self, values: Buffer) -> Result<()> {
        let call = self.nccl.functions.all_reduce;
        self.in_place(values, |at, count, of, stream| {
            // SAFETY: the buffer is on this card and has `count` elements, as its maker says; in place is allowed.
            unsafe { call(at, at, count, of, SUM, self.comm, stream) }
        })
    }

    fn reduce(&self, values: Buffer, root: usize) -> Result<()> {
        let (call, root) = (self.nccl.functions.reduce, c_int::try_from(root)?);
        self.in_place(values, |at, count, of, stream| {
            // SAFETY: as in `sum`.
            unsafe { call(at, at, count, of, SUM, root, self.comm, stream) }
        })
    }

    fn broadcast(&self, values: Buffer, root: usize) -> Result<()> {
        let (call, root) = (self.nccl.functions.broadcast, c_int::try_from(root)?);
        self.in_place(values, |at, count, of, stream| {
            // SAFETY: as in `sum`.
            unsafe { call(at, at, count, of, root, self.comm, stream) }
        })
    }

    fn gather(&self, part: Buffer, all: Buffer) -> Result<()> {
        let (part, all) = (Self::device(part)?, Self::device(all)?);
        ensure!(
            part.count * self.size == all.count && part.element == all.element,
            "{} parts of {} {:?} make no {} {:?}",
            self.size,
            part.count,
            part.element,
            all.count,
            all.element
        );
        let (from, to) = (part.address as *const c_void, all.address as *mut c_void);
        // SAFETY: both buffers are on this card and have the sizes that were just compared.
        let code = unsafe {
            (self.nccl.functions.all_gather)(
                from,
                to,
                part.count,
                data_type(part.element),
                self.comm,
                all.stream,
            )
        };
        self.done(code, PATIENCE)
    }

    fn check(&self) -> Result<()> {
        let code = self.state()?;
        ensure!(
            code == SUCCESS || code == IN_PROGRESS,
            "NCCL {}: {}",
            self.nccl.version,
            self.nccl.describe(code, self.comm)
        );
        Ok(())
    }

    fn leave(self: Box<Self>) -> Result<()> {
        // SAFETY: nothing uses the communicator after this, which is taken by value.
        let code = unsafe { (self.nccl.functions.finalize)(self.comm) };
        self.done(code, PATIENCE)?;
        // SAFETY: as above.
        let code = unsafe { (self.nccl.functions.destroy)(self.comm) };
        ensure!(
            code == SUCCESS,
            "NCCL {}: {}",
            self.nccl.version,
            self.nccl.describe(code, std::ptr::null_mut())
        );
        Ok(())
    }

    fn abort(&self) {
        // SAFETY: NCCL allows this at any time; it ends what is going on, and what comes after it is an error.
        let _ = unsafe { (self.nccl.functions.abort)(self.comm) };
    }
}
