//! Trackers across the boundary.

use super::guard::guard;
use super::object::{Imported, check_by, component_mut, crosses_by, imported_check, to_json};
use crate::{EndState, Level, Result, RunInfo, Tracker, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RStr};
use serde_json::{Map, Value};
use std::path::Path;

/// A tracker's functions; run, values, level and end are JSON. Those after `on_terminal` came
/// later: a plugin may lack them.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TrackerTableRef)))]
#[allow(missing_docs)]
pub struct TrackerTable {
    pub start: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    pub log: unsafe extern "C" fn(*mut (), u64, RStr<'_>) -> Wire<()>,
    pub text: unsafe extern "C" fn(*mut (), u64, RStr<'_>, RStr<'_>) -> Wire<()>,
    pub finish: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    #[sabi(last_prefix_field)]
    pub on_terminal: unsafe extern "C" fn(*mut ()) -> Wire<bool>,
    pub image: unsafe extern "C" fn(*mut (), u64, RStr<'_>, RSlice<'_, u8>) -> Wire<()>,
    pub line: unsafe extern "C" fn(*mut (), RStr<'_>, RStr<'_>) -> Wire<()>,
    pub system: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    pub saved: unsafe extern "C" fn(*mut (), u64, RStr<'_>) -> Wire<()>,
    /// See [`Tracker::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

crosses_by!(TrackerTable { start, log, text, finish, on_terminal, image, line, system, saved, check } as TrackerTableRef for dyn Tracker);

check_by!(dyn Tracker);

/// The tracker behind the host's pointer.
unsafe fn tracker<'a>(this: *mut ()) -> &'a mut dyn Tracker {
    // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
    unsafe { component_mut::<dyn Tracker>(this) }
}

unsafe extern "C" fn start(this: *mut (), run: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.start(&serde_json::from_str(run.as_str())?))
}

unsafe extern "C" fn log(this: *mut (), step: u64, values: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.log(step, &serde_json::from_str(values.as_str())?))
}

unsafe extern "C" fn text(this: *mut (), step: u64, name: RStr<'_>, text: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.text(step, name.as_str(), text.as_str()))
}

unsafe extern "C" fn finish(this: *mut (), end: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.finish(&serde_json::from_str(end.as_str())?))
}

unsafe extern "C" fn on_terminal(this: *mut ()) -> Wire<bool> {
    // SAFETY: see `tracker`.
    guard(|| Ok(unsafe { tracker(this) }.on_terminal()))
}

unsafe extern "C" fn image(
    this: *mut (),
    step: u64,
    name: RStr<'_>,
    png: RSlice<'_, u8>,
) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.image(step, name.as_str(), png.as_slice()))
}

unsafe extern "C" fn line(this: *mut (), level: RStr<'_>, line: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.line(serde_json::from_str(level.as_str())?, line.as_str()))
}

unsafe extern "C" fn system(this: *mut (), values: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.system(&serde_json::from_str(values.as_str())?))
}

unsafe extern "C" fn saved(this: *mut (), step: u64, checkpoint: RStr<'_>) -> Wire<()> {
    // SAFETY: see `tracker`.
    guard(|| unsafe { tracker(this) }.saved(step, Path::new(checkpoint.as_str())))
}

impl Tracker for Imported<TrackerTableRef> {
    imported_check!();

    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let json = to_json(run)?;
        let (this, table) = (self.object.this(), self.object.table());
        // SAFETY: pointer and table belong together; the text outlives the call.
        self.origin
            .context("start", unsafe { table.start()(this, json.as_rstr()) })
    }

    fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let json = to_json(values)?;
        let (this, table) = (self.object.this(), self.object.table());
        // SAFETY: as above.
        self.origin
            .context("log", unsafe { table.log()(this, step, json.as_rstr()) })
    }

    fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let (this, table) = (self.object.this(), self.object.table());
        // SAFETY: as above.
        let wire = unsafe { table.text()(this, step, name.into(), text.into()) };
        self.origin.context("text", wire)
    }

    fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        let (this, table) = (self.object.this(), self.object.table());
        let Some(image) = table.image() else {
            return Ok(());
        };
        // SAFETY: as above.
        let wire = unsafe { image(this, step, name.into(), png.into()) };
        self.origin.context("image", wire)
    }

    fn line(&mut self, level: Level, text: &str) -> Result<()> {
        let (this, table) = (self.object.this(), self.object.table());
        let Some(line) = table.line() else {
            return Ok(());
        };
        let json = to_json(&level)?;
        // SAFETY: as above.
        let wire = unsafe { line(this, json.as_rstr(), text.into()) };
        self.origin.context("line", wire)
    }

    fn system(&mut self, values: &Map<String, Value>) -> Result<()> {
        let (this, table) = (self.object.this(), self.object.table());
        let Some(system) = table.system() else {
            return Ok(());
        };
        let json = to_json(values)?;
        // SAFETY: as above.
        self.origin
            .context("system", unsafe { system(this, json.as_rstr()) })
    }

    fn saved(&mut self, step: u64, checkpoint: &Path) -> Result<()> {
        let (this, table) = (self.object.this(), self.object.table());
        let Some(saved) = table.saved() else {
            return Ok(());
        };
        let path = checkpoint.to_string_lossy();
        // SAFETY: as above.
        let wire = unsafe { saved(this, step, (&*path).into()) };
        self.origin.context("saved", wire)
    }

    fn on_terminal(&self) -> bool {
        let (this, table) = (self.object.this(), self.object.table());
        // SAFETY: as above.
        unsafe { table.on_terminal()(this) }.unwrap_or(false)
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        let json = to_json(end)?;
        let (this, table) = (self.object.this(), self.object.table());
        // SAFETY: as above.
        self.origin
            .context("finish", unsafe { table.finish()(this, json.as_rstr()) })
    }
}
