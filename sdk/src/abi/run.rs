//! The run across the boundary: a pointer of the host with the table of its functions.
//!
//! What does not change crosses once, as JSON. The plugin owns the pointer that it was given and may use it on any
//! thread; the host answers with an error once the run is over.

use super::guard::guard;
use super::object::to_json;
use crate::{Error, Need, Parameter, Result, Run, RunHost, RunInfo, Tensor, Wire};
use abi_stable::StableAbi;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// A [`Run`], which the plugin releases.
#[repr(C)]
#[derive(StableAbi)]
pub struct WireRun {
    this: *const (),
    host: RunTableRef,
}

// SAFETY: the pointer is a `Run`'s, which is `Send` and `Sync`, and goes with functions that take it shared.
unsafe impl Send for WireRun {}
// SAFETY: as above.
unsafe impl Sync for WireRun {}

/// The host's functions for a run.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RunTableRef)))]
pub struct RunTable {
    /// Gives the pointer back, once.
    pub release: unsafe extern "C" fn(*const ()),
    /// Configuration, `RunInfo` and needs, as JSON.
    pub about: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`Run::encode`].
    pub encode: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<RVec<u32>>,
    /// See [`Run::decode`].
    pub decode: unsafe extern "C" fn(*const (), RSlice<'_, u32>) -> Wire<RString>,
    /// See [`Run::parameters`]; JSON.
    pub parameters: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`Run::value`].
    pub value: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<Tensor>,
    /// See [`Run::gradient`].
    pub gradient: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<Tensor>,
    /// See [`Run::set`].
    #[sabi(last_prefix_field)]
    pub set: unsafe extern "C" fn(*const (), RStr<'_>, &Tensor) -> Wire<()>,
}

/// What does not change in a run.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct About {
    config: Value,
    info: RunInfo,
    /// Names; none of them if everything is allowed.
    needs: Option<Vec<String>>,
}

impl WireRun {
    /// On its way to a plugin.
    pub(super) fn give(run: &Run) -> Self {
        static TABLE: OnceLock<RunTableRef> = OnceLock::new();
        let table = || {
            RunTable {
                release,
                about,
                encode,
                decode,
                parameters,
                value,
                gradient,
                set,
            }
            .leak_into_prefix()
        };
        Self {
            this: Box::into_raw(Box::new(run.clone())).cast_const().cast(),
            host: *TABLE.get_or_init(table),
        }
    }

    /// The plugin's run on top of the host's.
    pub(super) fn take(self) -> Result<Run> {
        // SAFETY: pointer and table come from one host, which keeps the pointer until it is released; so below.
        let about = taken(unsafe { self.host.about()(self.this) })?;
        let about: About = serde_json::from_str(&about)?;
        let run = Run::new(about.config, about.info, Arc::new(self));
        Ok(match about.needs {
            None => run,
            Some(names) => {
                let known: Vec<Need> = names
                    .iter()
                    .filter_map(|name| Need::from_name(name))
                    .collect();
                run.for_needs(&known)
            }
        })
    }
}

impl Drop for WireRun {
    fn drop(&mut self) {
        // SAFETY: the pointer is this one's and is not used after.
        unsafe { self.host.release()(self.this) }
    }
}

fn taken<T>(wire: Wire<T>) -> Result<T> {
    match wire {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(message) => Err(Error::new(message)),
    }
}

impl RunHost for WireRun {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        // SAFETY: see `take`; the text outlives the call.
        let ids = taken(unsafe { self.host.encode()(self.this, text.into()) })?;
        Ok(ids.into_vec())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        // SAFETY: as above.
        let text = taken(unsafe { self.host.decode()(self.this, tokens.into()) })?;
        Ok(text.into_string())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        // SAFETY: as above.
        let json = taken(unsafe { self.host.parameters()(self.this) })?;
        Ok(serde_json::from_str(&json)?)
    }

    fn value(&self, name: &str) -> Result<Tensor> {
        // SAFETY: as above.
        taken(unsafe { self.host.value()(self.this, name.into()) })
    }

    fn gradient(&self, name: &str) -> Result<Tensor> {
        // SAFETY: as above.
        taken(unsafe { self.host.gradient()(self.this, name.into()) })
    }

    fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        // SAFETY: as above.
        taken(unsafe { self.host.set()(self.this, name.into(), value) })
    }
}

/// The host's run behind a pointer.
unsafe fn run<'a>(this: *const ()) -> &'a Run {
    // SAFETY: `WireRun::give` made the pointer, and the plugin gives it back by `release` alone.
    unsafe { &*this.cast::<Run>() }
}

unsafe extern "C" fn release(this: *const ()) {
    // SAFETY: see `run`; it is released once.
    drop(unsafe { Box::from_raw(this.cast_mut().cast::<Run>()) });
}

unsafe extern "C" fn about(this: *const ()) -> Wire<RString> {
    guard(|| {
        // SAFETY: see `run`, here and below.
        let run = unsafe { run(this) };
        let about = match run.declared() {
            // Nothing is given without a declaration.
            Some(declared) if !Need::Run.is_in(declared) => About {
                needs: Some(Vec::new()),
                ..About::default()
            },
            declared => About {
                config: run.config().clone(),
                info: run.info().clone(),
                needs: declared.map(|all| all.iter().map(|need| need.name().to_owned()).collect()),
            },
        };
        to_json(&about)
    })
}

unsafe extern "C" fn encode(this: *const (), text: RStr<'_>) -> Wire<RVec<u32>> {
    // SAFETY: see `about`.
    guard(|| Ok(unsafe { run(this) }.encode(text.as_str())?.into()))
}

unsafe extern "C" fn decode(this: *const (), tokens: RSlice<'_, u32>) -> Wire<RString> {
    // SAFETY: see `about`.
    guard(|| Ok(unsafe { run(this) }.decode(tokens.as_slice())?.into()))
}

unsafe extern "C" fn parameters(this: *const ()) -> Wire<RString> {
    // SAFETY: see `about`.
    guard(|| to_json(&unsafe { run(this) }.parameters()?))
}

unsafe extern "C" fn value(this: *const (), name: RStr<'_>) -> Wire<Tensor> {
    // SAFETY: see `about`.
    guard(|| unsafe { run(this) }.value(name.as_str()))
}

unsafe extern "C" fn gradient(this: *const (), name: RStr<'_>) -> Wire<Tensor> {
    // SAFETY: see `about`.
    guard(|| unsafe { run(this) }.gradient(name.as_str()))
}

unsafe extern "C" fn set(this: *const (), name: RStr<'_>, value: &Tensor) -> Wire<()> {
    // SAFETY: see `about`.
    guard(|| unsafe { run(this) }.set(name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Host;
    use serde_json::json;

    #[test]
    fn a_run_is_the_same_on_the_other_side() {
        let host = Host::new()
            .config(json!({"lora_rank": 8}))
            .parameter("w", &[1.0, 2.0], &[2])
            .gradient("w", &[3.0, 4.0]);
        let here = host.run();
        let across = |needs: &[Need]| WireRun::give(&here.for_needs(needs)).take().unwrap();
        let there = across(&[Need::SetParameters]);
        assert_eq!(there.config(), here.config());
        assert_eq!(there.info(), here.info());
        assert_eq!(there.parameters(), here.parameters());
        let ids = there.encode("a cat").unwrap();
        assert_eq!(there.decode(&ids).unwrap(), "a cat");
        let numbers = |tensor: Result<Tensor>| tensor.unwrap().to_vec_f32().unwrap();
        assert_eq!(numbers(there.gradient("w")), [3.0, 4.0]);
        let twice = there.value("w").unwrap().affine(2.0, 0.0).unwrap();
        there.set("w", &twice).unwrap();
        assert_eq!(numbers(here.value("w")), [2.0, 4.0]);
        assert!(
            there
                .value("v")
                .unwrap_err()
                .to_string()
                .contains("no parameter \"v\"")
        );

        let reads = across(&[Need::Parameters]);
        let refused = reads.set("w", &twice).unwrap_err().to_string();
        assert!(
            refused.ends_with("&[Need::Parameters, Need::SetParameters] }"),
            "{refused}"
        );
        let none = across(&[]);
        assert!(none.encode("x").is_err() && none.parameters().is_err());
        let noted = crate::needs::scoped(|| {
            assert!(none.config().is_null());
            Ok(())
        });
        assert!(noted.unwrap_err().to_string().ends_with("&[Need::Run] }"));

        drop(host);
        let over = there.encode("x").unwrap_err().to_string();
        assert!(over.contains("the run is over"), "{over}");
    }
}
