//! Exporters across the boundary.

use super::guard::guard;
use super::object::{Imported, check_by, component, crosses_by, imported_check, to_json};
use crate::exporter::{ExportAbout, TensorSource};
use crate::{Error, ExportModel, Exporter, Result, Tensor, Wire, Writes};
use abi_stable::StableAbi;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RSliceMut, RStr, RString};
use std::sync::OnceLock;

/// An exporter's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ExporterTableRef)))]
pub struct ExporterTable {
    /// A [`Writes`] as JSON.
    pub writes: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// Writes the files of a model.
    #[sabi(last_prefix_field)]
    pub export_model: unsafe extern "C" fn(*const (), WireModel<'_>) -> Wire<()>,
    /// See [`Exporter::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

/// An [`ExportModel`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireModel<'a> {
    /// An `ExportAbout` as JSON.
    about: RStr<'a>,
    /// Goes with the functions of `host`.
    source: *const (),
    host: SourceTableRef,
}

// SAFETY: the pointer is that of a `TensorSource`, which is `Sync`.
unsafe impl Sync for WireModel<'_> {}

/// The host's functions for the tensors of a model.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = SourceTableRef)))]
pub struct SourceTable {
    /// See [`TensorSource::read`].
    pub read: unsafe extern "C" fn(*const (), usize, u64, RSliceMut<'_, u8>) -> Wire<()>,
    /// See [`TensorSource::tensor`].
    #[sabi(last_prefix_field)]
    pub tensor: unsafe extern "C" fn(*const (), usize) -> Wire<Tensor>,
}

crosses_by!(ExporterTable { writes, export_model, check } as ExporterTableRef for dyn Exporter);

check_by!(dyn Exporter);

unsafe extern "C" fn writes(this: *const ()) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let exporter = unsafe { component::<dyn Exporter>(this) };
        to_json(&exporter.writes())
    })
}

unsafe extern "C" fn export_model(this: *const (), model: WireModel<'_>) -> Wire<()> {
    guard(|| {
        let about: ExportAbout = serde_json::from_str(model.about.as_str())?;
        // SAFETY: the host gives the object's own pointer.
        let exporter = unsafe { component::<dyn Exporter>(this) };
        exporter.export(&ExportModel::new(&about, &model))
    })
}

/// The plugin's side of the tensors.
impl TensorSource for WireModel<'_> {
    fn read(&self, tensor: usize, offset: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: pointer and table come from one host, which waits for the exporter to return.
        given(unsafe { self.host.read()(self.source, tensor, offset, to.into()) })
    }

    fn tensor(&self, tensor: usize) -> Result<Tensor> {
        // SAFETY: as above.
        given(unsafe { self.host.tensor()(self.source, tensor) })
    }
}

fn given<T>(wire: Wire<T>) -> Result<T> {
    match wire {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(message) => Err(Error::new(message)),
    }
}

/// The host's source behind a pointer to the reference to it.
///
/// # Safety
/// `Imported::export` makes the pointer and outlives the call.
unsafe fn source<'a>(source: *const ()) -> &'a dyn TensorSource {
    // SAFETY: by the contract above.
    unsafe { *source.cast::<&dyn TensorSource>() }
}

unsafe extern "C" fn read(
    this: *const (),
    tensor: usize,
    offset: u64,
    to: RSliceMut<'_, u8>,
) -> Wire<()> {
    // SAFETY: see `source`.
    guard(|| unsafe { source(this) }.read(tensor, offset, to.into_mut_slice()))
}

unsafe extern "C" fn tensor(this: *const (), tensor: usize) -> Wire<Tensor> {
    // SAFETY: see `source`.
    guard(|| unsafe { source(this) }.tensor(tensor))
}

fn host() -> SourceTableRef {
    static TABLE: OnceLock<SourceTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| SourceTable { read, tensor }.leak_into_prefix())
}

impl Exporter for Imported<ExporterTableRef> {
    imported_check!();

    fn writes(&self) -> Writes {
        let (this, call) = (self.object.this(), self.object.table().writes());
        // SAFETY: pointer and table belong together.
        let json = self.origin.context("writes", unsafe { call(this) });
        // What this host does not know is refused when it is exported: there is no other way to write it.
        json.ok()
            .and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or(Writes::Files)
    }

    fn export(&self, model: &ExportModel) -> Result<()> {
        let (about, source) = model.parts();
        let about = to_json(about)?;
        let wire = WireModel {
            about: about.as_rstr(),
            source: std::ptr::from_ref(&source).cast(),
            host: host(),
        };
        let (this, call) = (self.object.this(), self.object.table().export_model());
        // SAFETY: pointer and table belong together; the model outlives the call.
        self.origin.context("export", unsafe { call(this, wire) })
    }
}
