//! Datasets across the boundary: sources and rows as JSON.

use super::guard::guard;
use super::object::{
    Imported, check_by, component, component_mut, crosses_by, imported_check, to_json,
};
use crate::{Dataset, DatasetSource, Result, Row, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{RStr, RString};

/// A dataset's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = DatasetTableRef)))]
pub struct DatasetTable {
    /// The [`DatasetSource`] for these subsets.
    pub source: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<RString>,
    /// The rows that it makes.
    pub rows: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// A row, changed, or null.
    #[sabi(last_prefix_field)]
    pub row: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<RString>,
    /// See [`Dataset::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

crosses_by!(DatasetTable { source, rows, row, check } as DatasetTableRef for dyn Dataset);

check_by!(dyn Dataset);

unsafe extern "C" fn source(this: *mut (), subsets: RStr<'_>) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer, and nobody else uses it meanwhile.
        let dataset = unsafe { component_mut::<dyn Dataset>(this) };
        let subsets: Vec<String> = serde_json::from_str(subsets.as_str())?;
        to_json(&dataset.source(&subsets)?)
    })
}

unsafe extern "C" fn rows(this: *const ()) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let dataset = unsafe { component::<dyn Dataset>(this) };
        to_json(&dataset.rows()?)
    })
}

unsafe extern "C" fn row(this: *const (), row: RStr<'_>) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let dataset = unsafe { component::<dyn Dataset>(this) };
        to_json(&dataset.row(serde_json::from_str(row.as_str())?)?)
    })
}

impl Dataset for Imported<DatasetTableRef> {
    imported_check!();

    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        let subsets = serde_json::to_string(subsets)?;
        let (this, call) = (self.object.this(), self.object.table().source());
        // SAFETY: pointer and table belong together; the text outlives the call.
        let wire = unsafe { call(this, subsets.as_str().into()) };
        let json = self.origin.context("source", wire)?;
        serde_json::from_str(&json).map_err(|error| self.origin.failed("source", &error))
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let (this, call) = (self.object.this(), self.object.table().rows());
        // SAFETY: pointer and table belong together.
        let json = self.origin.context("rows", unsafe { call(this) })?;
        serde_json::from_str(&json).map_err(|error| self.origin.failed("rows", &error))
    }

    fn row(&self, row: Row) -> Result<Option<Row>> {
        let row = serde_json::to_string(&row)?;
        let (this, call) = (self.object.this(), self.object.table().row());
        // SAFETY: pointer and table belong together; the text outlives the call.
        let wire = unsafe { call(this, row.as_str().into()) };
        let json = self.origin.context("row", wire)?;
        serde_json::from_str(&json).map_err(|error| self.origin.failed("row", &error))
    }
}
