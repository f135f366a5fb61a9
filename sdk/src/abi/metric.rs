//! Metrics across the boundary.

use super::guard::guard;
use super::object::{
    Imported, check_by, component, component_mut, crosses_by, imported_check, to_json,
};
use super::run::WireRun;
use crate::{Decoder, Error, EvalBatch, Metric, Need, Result, Run, TextPair, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};

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
    /// See [`Metric::reads_answers`]; since 1.1, as those that follow.
    pub reads_answers: unsafe extern "C" fn(*const ()) -> Wire<bool>,
    /// See [`Metric::update_answers`].
    pub update_answers: unsafe extern "C" fn(*mut (), RSlice<'_, WirePair<'_>>) -> Wire<()>,
    /// See [`Metric::names`]; JSON.
    pub names: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`Metric::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
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

/// A [`TextPair`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WirePair<'a> {
    reference: RStr<'a>,
    answer: RStr<'a>,
}

/// A value with its name.
#[repr(C)]
#[derive(StableAbi)]
pub struct Named {
    name: RString,
    value: f64,
}

crosses_by!(MetricTable { update, compute, begin, reads_answers, update_answers, names, check } as MetricTableRef for dyn Metric);

check_by!(dyn Metric);

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
        let metric = unsafe { component_mut::<dyn Metric>(this) };
        // Said before the first evaluation, which may be hours away.
        if metric.reads_answers() {
            needs::require(Need::Answers)?;
        }
        metric.begin(&run)
    })
}

unsafe extern "C" fn reads_answers(this: *const ()) -> Wire<bool> {
    // SAFETY: the host gives the object's own pointer.
    guard(|| Ok(unsafe { component::<dyn Metric>(this) }.reads_answers()))
}

unsafe extern "C" fn update_answers(this: *mut (), pairs: RSlice<'_, WirePair<'_>>) -> Wire<()> {
    guard(|| {
        // SAFETY: as in `begin`.
        let metric = unsafe { component_mut::<dyn Metric>(this) };
        needs::require(Need::Answers)?;
        let pairs = pairs.iter().map(|pair| TextPair {
            reference: pair.reference.as_str(),
            answer: pair.answer.as_str(),
        });
        metric.update_answers(&pairs.collect::<Vec<_>>())
    })
}

unsafe extern "C" fn names(this: *const ()) -> Wire<RString> {
    // SAFETY: the host gives the object's own pointer.
    guard(|| to_json(&unsafe { component::<dyn Metric>(this) }.names()))
}

impl Metric for Imported<MetricTableRef> {
    imported_check!();

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

    fn reads_answers(&self) -> bool {
        let Some(call) = self.object.table().reads_answers() else {
            return false;
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this()) };
        self.origin.context("reads_answers", wire).unwrap_or(false)
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        let Some(call) = self.object.table().update_answers() else {
            return Err(self
                .origin
                .failed("update_answers", &"built with apus-sdk 1.0"));
        };
        let pairs = pairs.iter().map(|pair| WirePair {
            reference: pair.reference.into(),
            answer: pair.answer.into(),
        });
        let pairs: Vec<WirePair> = pairs.collect();
        // SAFETY: pointer and table belong together; the texts outlive the call.
        let wire = unsafe { call(self.object.this(), RSlice::from_slice(&pairs)) };
        self.origin.context("update_answers", wire)
    }

    fn names(&self) -> Option<Vec<String>> {
        let call = self.object.table().names()?;
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this()) };
        let json = self.origin.context("names", wire).ok()?;
        serde_json::from_str(&json).ok()?
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
