//! Metrics across the boundary.

use super::guard::guard;
use super::object::{Imported, component_mut, crosses_by};
use super::run::WireRun;
use crate::{Decoder, Error, EvalBatch, Metric, Result, Run, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RSlice, RString, RVec};

/// A metric's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = MetricTableRef)))]
pub struct MetricTable {
    /// Takes in a batch.
    pub update: unsafe extern "C" fn(*mut (), WireBatch<'_>) -> Wire<()>,
    /// Names and values; starts afresh.
    #[sabi(last_prefix_field)]
    pub compute: unsafe extern "C" fn(*mut ()) -> Wire<RVec<Named>>,
    /// See [`Metric::begin`]; since 1.1.
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
}

/// An [`EvalBatch`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireBatch<'a> {
    labels: RSlice<'a, u32>,
    predictions: RSlice<'a, u32>,
    weights: RSlice<'a, f32>,
    losses: RSlice<'a, f32>,
    lengths: RSlice<'a, usize>,
    /// Goes with `decode`.
    decoder: *const (),
    decode: unsafe extern "C" fn(*const (), RSlice<'_, u32>) -> Wire<RString>,
}

/// A value with its name.
#[repr(C)]
#[derive(StableAbi)]
pub struct Named {
    name: RString,
    value: f64,
}

crosses_by!(MetricTable { update, compute, begin } as MetricTableRef for dyn Metric);

/// The plugin's side of the decoder.
impl Decoder for WireBatch<'_> {
    fn decode(&self, tokens: &[u32]) -> Result<String> {
        // SAFETY: pointer and function come from one host, which waits for the metric to return.
        match unsafe { (self.decode)(self.decoder, tokens.into()) } {
            RResult::ROk(text) => Ok(text.into_string()),
            RResult::RErr(message) => Err(Error::new(message)),
        }
    }
}

unsafe extern "C" fn update(this: *mut (), batch: WireBatch<'_>) -> Wire<()> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        let metric = unsafe { component_mut::<dyn Metric>(this) };
        metric.update(&EvalBatch {
            labels: batch.labels.as_slice(),
            predictions: batch.predictions.as_slice(),
            weights: batch.weights.as_slice(),
            losses: batch.losses.as_slice(),
            lengths: batch.lengths.as_slice(),
            decoder: &batch,
        })
    })
}

unsafe extern "C" fn compute(this: *mut ()) -> Wire<RVec<Named>> {
    guard(|| {
        // SAFETY: as above.
        let metric = unsafe { component_mut::<dyn Metric>(this) };
        let named = metric.compute()?.into_iter().map(|(name, value)| Named {
            name: name.into(),
            value,
        });
        Ok(named.collect())
    })
}

/// The host's decoder behind a pointer to the reference to it.
unsafe extern "C" fn decode(decoder: *const (), tokens: RSlice<'_, u32>) -> Wire<RString> {
    guard(|| {
        // SAFETY: `Imported::update` makes the pointer and outlives the call.
        let decoder = unsafe { *decoder.cast::<&dyn Decoder>() };
        Ok(decoder.decode(tokens.as_slice())?.into())
    })
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Metric>(this) }.begin(&run)
    })
}

impl Metric for Imported<MetricTableRef> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        let Some(call) = self.object.table().begin() else {
            return Ok(());
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
        self.origin.context("begin", wire)
    }

    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        let decoder: &dyn Decoder = batch.decoder;
        let wire = WireBatch {
            labels: batch.labels.into(),
            predictions: batch.predictions.into(),
            weights: batch.weights.into(),
            losses: batch.losses.into(),
            lengths: batch.lengths.into(),
            decoder: std::ptr::from_ref(&decoder).cast(),
            decode,
        };
        let (this, call) = (self.object.this(), self.object.table().update());
        // SAFETY: pointer and table belong together; the batch outlives the call.
        self.origin.context("update", unsafe { call(this, wire) })
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let (this, call) = (self.object.this(), self.object.table().compute());
        // SAFETY: pointer and table belong together.
        let named = self.origin.context("compute", unsafe { call(this) })?;
        Ok(named
            .into_iter()
            .map(|Named { name, value }| (name.into_string(), value))
            .collect())
    }
}
