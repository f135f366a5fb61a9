//! Samplers across the boundary: an epoch is JSON and arrays, which are not copied; its order comes back as an array.

use super::guard::guard;
use super::object::{
    Imported, check_by, component, component_mut, crosses_by, imported_check, to_json,
};
use super::run::WireRun;
use crate::sampler::{EpochAbout, EpochColumns, RowLoss};
use crate::{Epoch, Need, Result, Run, Sampler, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RStr, RString, RVec};
use serde_json::Value;

/// A sampler's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = SamplerTableRef)))]
pub struct SamplerTable {
    /// See [`Sampler::begin`].
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
    /// See [`Sampler::epoch_length`].
    pub epoch_length: unsafe extern "C" fn(*const (), WireEpoch<'_>) -> Wire<u64>,
    /// See [`Sampler::order`].
    pub order: unsafe extern "C" fn(*mut (), WireEpoch<'_>) -> Wire<RVec<usize>>,
    /// See [`Sampler::save_state`]; JSON.
    pub save_state: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`Sampler::load_state`]; JSON.
    #[sabi(last_prefix_field)]
    pub load_state: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    /// See [`Sampler::check`].
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
    /// See [`Sampler::columns`].
    pub columns: unsafe extern "C" fn(*const ()) -> Wire<RVec<RString>>,
}

/// An [`Epoch`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireEpoch<'a> {
    /// An `EpochAbout` as JSON.
    about: RStr<'a>,
    tokens: RSlice<'a, u32>,
    datasets: RSlice<'a, u32>,
    channels: RSlice<'a, u32>,
    losses: RSlice<'a, RowLoss>,
}

crosses_by!(SamplerTable { begin, epoch_length, order, save_state, load_state, check, columns } as SamplerTableRef for dyn Sampler);

check_by!(dyn Sampler);

impl<'a> WireEpoch<'a> {
    fn columns(&self) -> EpochColumns<'a> {
        EpochColumns {
            tokens: self.tokens.as_slice(),
            datasets: self.datasets.as_slice(),
            channels: self.channels.as_slice(),
            losses: self.losses.as_slice(),
        }
    }
}

/// Sends an epoch out with a call.
fn send<T>(epoch: &Epoch, call: impl FnOnce(WireEpoch<'_>) -> T) -> Result<T> {
    let (about, columns) = epoch.parts();
    let about = to_json(about)?;
    Ok(call(WireEpoch {
        about: about.as_rstr(),
        tokens: columns.tokens.into(),
        datasets: columns.datasets.into(),
        channels: columns.channels.into(),
        losses: columns.losses.into(),
    }))
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Sampler>(this) }.begin(&run)
    })
}

unsafe extern "C" fn columns(this: *const ()) -> Wire<RVec<RString>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let columns = unsafe { component::<dyn Sampler>(this) }.columns()?;
        if !columns.is_empty() {
            needs::require(Need::Columns)?;
        }
        Ok(columns.into_iter().map(RString::from).collect())
    })
}

unsafe extern "C" fn epoch_length(this: *const (), epoch: WireEpoch<'_>) -> Wire<u64> {
    guard(|| {
        let about: EpochAbout = serde_json::from_str(epoch.about.as_str())?;
        // SAFETY: the host gives the object's own pointer.
        let sampler = unsafe { component::<dyn Sampler>(this) };
        Ok(sampler.epoch_length(&Epoch::new(&about, epoch.columns()))? as u64)
    })
}

unsafe extern "C" fn order(this: *mut (), epoch: WireEpoch<'_>) -> Wire<RVec<usize>> {
    guard(|| {
        let about: EpochAbout = serde_json::from_str(epoch.about.as_str())?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        let sampler = unsafe { component_mut::<dyn Sampler>(this) };
        Ok(sampler.order(&Epoch::new(&about, epoch.columns()))?.into())
    })
}

unsafe extern "C" fn save_state(this: *const ()) -> Wire<RString> {
    // SAFETY: the host gives the object's own pointer.
    guard(|| to_json(&unsafe { component::<dyn Sampler>(this) }.save_state()?))
}

unsafe extern "C" fn load_state(this: *mut (), saved: RStr<'_>) -> Wire<()> {
    guard(|| {
        let saved = serde_json::from_str(saved.as_str())?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Sampler>(this) }.load_state(saved)
    })
}

impl Sampler for Imported<SamplerTableRef> {
    imported_check!();

    fn begin(&mut self, run: &Run) -> Result<()> {
        let (this, call) = (self.object.this(), self.object.table().begin());
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(this, WireRun::give(run)) };
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

    fn epoch_length(&self, epoch: &Epoch) -> Result<usize> {
        let call = self.object.table().epoch_length();
        // SAFETY: pointer and table belong together; the epoch outlives the call.
        let wire = send(epoch, |epoch| unsafe { call(self.object.this(), epoch) })?;
        Ok(self.origin.context("epoch_length", wire)? as usize)
    }

    fn order(&mut self, epoch: &Epoch) -> Result<Vec<usize>> {
        let call = self.object.table().order();
        // SAFETY: pointer and table belong together; the epoch outlives the call.
        let wire = send(epoch, |epoch| unsafe { call(self.object.this(), epoch) })?;
        Ok(self.origin.context("order", wire)?.into())
    }

    fn save_state(&self) -> Result<Value> {
        let (this, call) = (self.object.this(), self.object.table().save_state());
        // SAFETY: pointer and table belong together.
        let json = self.origin.context("save_state", unsafe { call(this) })?;
        serde_json::from_str(&json).map_err(|error| self.origin.failed("save_state", &error))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        let json = to_json(&saved)?;
        let (this, call) = (self.object.this(), self.object.table().load_state());
        // SAFETY: pointer and table belong together; the text outlives the call.
        let loaded = unsafe { call(this, json.as_rstr()) };
        self.origin.context("load_state", loaded)
    }
}
