//! Losses across the boundary.

use super::guard::guard;
use super::object::{
    Imported, check_by, component, component_mut, crosses_by, imported_check, to_json,
};
use super::run::WireRun;
use crate::{ChunkOps, ChunkRows, Error, Loss, LossChunk, Result, Run, Tensor, Wire};
use abi_stable::StableAbi;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RStr, RString, RVec};
use std::sync::OnceLock;

/// A loss's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = LossTableRef)))]
pub struct LossTable {
    /// The loss of each token of a chunk.
    #[sabi(last_prefix_field)]
    pub per_token: unsafe extern "C" fn(*const (), WireChunk<'_>) -> Wire<Tensor>,
    /// See [`Loss::begin`]; since 1.1.
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
    /// See [`Loss::columns`].
    pub columns: unsafe extern "C" fn(*const ()) -> Wire<RVec<RString>>,
    /// See [`Loss::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

/// A [`LossChunk`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireChunk<'a> {
    labels: &'a Tensor,
    weights: &'a Tensor,
    /// Goes with the functions of `host`.
    ops: *const (),
    host: ChunkTableRef,
}

/// The host's functions for a chunk.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ChunkTableRef)))]
pub struct ChunkTable {
    /// See [`LossChunk::logits`].
    pub logits: unsafe extern "C" fn(*const ()) -> Wire<Tensor>,
    /// See [`LossChunk::cross_entropy`].
    #[sabi(last_prefix_field)]
    pub cross_entropy: unsafe extern "C" fn(*const ()) -> Wire<Tensor>,
    /// See [`LossChunk::rows`]; JSON. Since 1.1, as what follows.
    pub rows: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`LossChunk::hidden`].
    pub hidden: unsafe extern "C" fn(*const ()) -> Wire<Tensor>,
}

crosses_by!(LossTable { per_token, begin, columns, check } as LossTableRef for dyn Loss);

check_by!(dyn Loss);

unsafe extern "C" fn per_token(this: *const (), chunk: WireChunk<'_>) -> Wire<Tensor> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let loss = unsafe { component::<dyn Loss>(this) };
        loss.per_token(&LossChunk::new(chunk.labels, chunk.weights, &chunk))
    })
}

/// The plugin's side of a chunk.
impl ChunkOps for WireChunk<'_> {
    fn logits(&self) -> Result<Tensor> {
        // SAFETY: pointer and table come from one host, which waits for the loss to return.
        given(unsafe { self.host.logits()(self.ops) })
    }

    fn cross_entropy(&self) -> Result<Tensor> {
        // SAFETY: as above.
        given(unsafe { self.host.cross_entropy()(self.ops) })
    }

    fn rows(&self) -> Result<ChunkRows> {
        let rows = self.host.rows().ok_or("this host has no rows of a chunk")?;
        // SAFETY: as above.
        Ok(serde_json::from_str(&given(unsafe { rows(self.ops) })?)?)
    }

    fn hidden(&self) -> Result<Tensor> {
        let hidden = self.host.hidden().ok_or("this host has no hidden states")?;
        // SAFETY: as above.
        given(unsafe { hidden(self.ops) })
    }
}

fn given<T>(wire: Wire<T>) -> Result<T> {
    match wire {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(message) => Err(Error::new(message)),
    }
}

fn chunk_table() -> ChunkTableRef {
    static TABLE: OnceLock<ChunkTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| {
        ChunkTable {
            logits,
            cross_entropy,
            rows,
            hidden,
        }
        .leak_into_prefix()
    })
}

/// The host's chunk behind a pointer to the reference to it.
unsafe fn ops<'a>(ops: *const ()) -> &'a dyn ChunkOps {
    // SAFETY: `Imported::per_token` makes the pointer and outlives the call.
    unsafe { *ops.cast::<&dyn ChunkOps>() }
}

unsafe extern "C" fn logits(this: *const ()) -> Wire<Tensor> {
    // SAFETY: the plugin gives the chunk's own pointer.
    guard(|| unsafe { ops(this) }.logits())
}

unsafe extern "C" fn cross_entropy(this: *const ()) -> Wire<Tensor> {
    // SAFETY: the plugin gives the chunk's own pointer.
    guard(|| unsafe { ops(this) }.cross_entropy())
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Loss>(this) }.begin(&run)
    })
}

unsafe extern "C" fn columns(this: *const ()) -> Wire<RVec<RString>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let columns = unsafe { component::<dyn Loss>(this) }.columns()?;
        Ok(columns.into_iter().map(RString::from).collect())
    })
}

unsafe extern "C" fn rows(this: *const ()) -> Wire<RString> {
    // SAFETY: the plugin gives the chunk's own pointer.
    guard(|| to_json(&unsafe { ops(this) }.rows()?))
}

unsafe extern "C" fn hidden(this: *const ()) -> Wire<Tensor> {
    // SAFETY: the plugin gives the chunk's own pointer.
    guard(|| unsafe { ops(this) }.hidden())
}

impl Loss for Imported<LossTableRef> {
    imported_check!();

    fn begin(&mut self, run: &Run) -> Result<()> {
        let Some(call) = self.object.table().begin() else {
            return Ok(());
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
        self.origin.context("begin", wire)
    }

    fn columns(&self) -> Result<Vec<String>> {
        let Some(call) = self.object.table().columns() else {
            return Ok(Vec::new());
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this()) };
        let columns = self.origin.context("columns", wire)?;
        Ok(columns.into_iter().map(RString::into_string).collect())
    }

    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        let ops: &dyn ChunkOps = chunk.ops();
        let wire = WireChunk {
            labels: chunk.labels,
            weights: chunk.weights,
            ops: std::ptr::from_ref(&ops).cast(),
            host: chunk_table(),
        };
        let (this, call) = (self.object.this(), self.object.table().per_token());
        // SAFETY: pointer and table belong together; the chunk outlives the call.
        self.origin
            .context("per_token", unsafe { call(this, wire) })
    }
}
