//! Optimizers across the boundary.
//!
//! What an optimizer keeps about a parameter goes out with a step and comes back with its end. If the
//! step fails it is lost: the host keeps copies of what it wants to go on with.

use super::guard::guard;
use super::object::{
    Imported, check_by, component, component_mut, crosses_by, imported_check, to_json,
};
use super::run::WireRun;
use crate::optimizer_step::{Again, Grouping};
use crate::{
    Optimizer, OptimizerStep, Param, ParameterGroup, Result, Run, State, StepInfo, Tensor, Wire,
};
use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RString, RVec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The state of each parameter, as it comes back.
type States = Wire<RVec<RVec<Kept>>>;

/// An optimizer's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = OptimizerTableRef)))]
pub struct OptimizerTable {
    /// The step of this number; gives back the state of each parameter.
    #[sabi(last_prefix_field)]
    pub step: unsafe extern "C" fn(*mut (), RVec<WireParam<'_>>, u64) -> Wire<RVec<RVec<Kept>>>,
    /// See [`Optimizer::begin`]; since 1.1.
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
    /// [`Optimizer::step_with`] with a [`Sent`] as JSON.
    pub step_with: unsafe extern "C" fn(
        *mut (),
        RVec<WireParam<'_>>,
        RStr<'_>,
        WireAgain,
    ) -> Wire<RVec<RVec<Kept>>>,
    /// The hook of this name; gives back the state of each parameter. One that a plugin does not know does nothing.
    pub hook:
        unsafe extern "C" fn(*mut (), RStr<'_>, RVec<WireParam<'_>>) -> Wire<RVec<RVec<Kept>>>,
    /// See [`Optimizer::save_state`].
    pub save_state: unsafe extern "C" fn(*mut ()) -> Wire<RString>,
    /// See [`Optimizer::load_state`].
    pub load_state: unsafe extern "C" fn(*mut (), RStr<'_>) -> Wire<()>,
    /// See [`Optimizer::state_bytes`].
    pub state_bytes:
        unsafe extern "C" fn(*mut (), RStr<'_>, RSlice<'_, usize>) -> Wire<ROption<u64>>,
    /// See [`Optimizer::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

/// A [`Param`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireParam<'a> {
    name: RStr<'a>,
    value: Tensor,
    grad: Tensor,
    lr: f64,
    decay: bool,
    state: RVec<Kept>,
}

/// A tensor that an optimizer keeps.
#[repr(C)]
#[derive(StableAbi)]
pub struct Kept {
    pub(super) name: RString,
    pub(super) tensor: Tensor,
}

/// The passes of a step once more, if the optimizer declares that. It is used within the call that it is given to.
#[repr(C)]
#[derive(StableAbi)]
pub struct WireAgain {
    host: *mut (),
    call: Option<unsafe extern "C" fn(*mut ()) -> Wire<f64>>,
}

/// A step on its way out, but for parameters and passes.
#[derive(Serialize)]
struct Sent<'a> {
    step: u64,
    groups: Option<&'a [ParameterGroup]>,
    members: &'a [usize],
}

/// The same as it arrives.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Received {
    step: u64,
    groups: Option<Vec<ParameterGroup>>,
    members: Vec<usize>,
}

crosses_by!(OptimizerTable { step, begin, step_with, hook, save_state, load_state, state_bytes, check } as OptimizerTableRef for dyn Optimizer);

check_by!(dyn Optimizer);

fn pack(state: &mut State) -> RVec<Kept> {
    let kept = state.take().into_iter().map(|(name, tensor)| Kept {
        name: name.into(),
        tensor,
    });
    kept.collect()
}

fn unpack(state: &mut State, kept: RVec<Kept>) {
    for Kept { name, tensor } in kept {
        state.insert(name.into_string(), tensor);
    }
}

/// Lets the optimizer behind the host's pointer work on parameters, and gives back their state.
///
/// # Safety
/// `this` is an optimizer's own pointer, and nobody uses it meanwhile.
unsafe fn on_params(
    this: *mut (),
    params: RVec<WireParam<'_>>,
    work: impl FnOnce(&mut dyn Optimizer, &mut [Param]) -> Result<()>,
) -> Result<RVec<RVec<Kept>>> {
    // SAFETY: by the contract above.
    let optimizer = unsafe { component_mut::<dyn Optimizer>(this) };
    let mut states: Vec<State> = params.iter().map(|_| State::default()).collect();
    let mut given: Vec<Param> = params
        .into_iter()
        .zip(&mut states)
        .map(|(param, state)| {
            unpack(state, param.state);
            Param {
                name: param.name.as_str(),
                value: param.value,
                grad: param.grad,
                lr: param.lr,
                decay: param.decay,
                state,
            }
        })
        .collect();
    work(optimizer, &mut given)?;
    drop(given);
    Ok(states.iter_mut().map(pack).collect())
}

unsafe extern "C" fn step(this: *mut (), params: RVec<WireParam<'_>>, number: u64) -> States {
    guard(|| {
        let work = |optimizer: &mut dyn Optimizer, params: &mut [Param]| {
            optimizer.step(params, &StepInfo { step: number })
        };
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { on_params(this, params, work) }
    })
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Optimizer>(this) }.begin(&run)
    })
}

unsafe extern "C" fn step_with(
    this: *mut (),
    params: RVec<WireParam<'_>>,
    sent: RStr<'_>,
    again: WireAgain,
) -> States {
    guard(|| {
        let received: Received = serde_json::from_str(sent.as_str())?;
        let mut pass = again.call.map(|call| {
            move || {
                // SAFETY: the host's function goes with its pointer, and this call with it is not over.
                match unsafe { call(again.host) } {
                    RResult::ROk(loss) => Ok(loss),
                    RResult::RErr(message) => Err(crate::Error::new(message)),
                }
            }
        });
        let mut step = OptimizerStep::new(StepInfo {
            step: received.step,
        });
        if let Some(groups) = &received.groups {
            step = step.with_groups(groups, &received.members);
        }
        if let Some(pass) = &mut pass {
            step = step.with_closure(pass);
        }
        let work = |optimizer: &mut dyn Optimizer, params: &mut [Param]| {
            optimizer.step_with(params, &mut step)
        };
        // SAFETY: as in `step`.
        unsafe { on_params(this, params, work) }
    })
}

unsafe extern "C" fn save_state(this: *mut ()) -> Wire<RString> {
    // SAFETY: as in `step`.
    guard(|| to_json(&unsafe { component::<dyn Optimizer>(this) }.save_state()?))
}

unsafe extern "C" fn load_state(this: *mut (), saved: RStr<'_>) -> Wire<()> {
    guard(|| {
        let saved = serde_json::from_str(saved.as_str())?;
        // SAFETY: as in `step`.
        unsafe { component_mut::<dyn Optimizer>(this) }.load_state(saved)
    })
}

unsafe extern "C" fn state_bytes(
    this: *mut (),
    name: RStr<'_>,
    shape: RSlice<'_, usize>,
) -> Wire<ROption<u64>> {
    guard(|| {
        // SAFETY: as in `step`.
        let optimizer = unsafe { component::<dyn Optimizer>(this) };
        let bytes = optimizer.state_bytes(name.as_str(), shape.as_slice())?;
        Ok(bytes.into())
    })
}

/// The passes of a step, for the host's pointer in [`WireAgain`].
unsafe extern "C" fn run_again(host: *mut ()) -> Wire<f64> {
    // SAFETY: the pointer is that of `Imported::step_with`, whose call is not over, and a plugin has one thread in it.
    guard(|| unsafe { &mut *host.cast::<Again>() }())
}

impl Imported<OptimizerTableRef> {
    /// Sends parameters out with a call, and puts back the state that comes with its end.
    fn send(
        &self,
        event: &str,
        params: &mut [Param],
        call: impl FnOnce(*mut (), RVec<WireParam<'_>>) -> States,
    ) -> Result<()> {
        let wire = params.iter_mut().map(|param| WireParam {
            name: param.name.into(),
            value: param.value.clone(),
            grad: param.grad.clone(),
            lr: param.lr,
            decay: param.decay,
            state: pack(param.state),
        });
        let wire: RVec<WireParam> = wire.collect();
        let states = self.origin.context(event, call(self.object.this(), wire))?;
        for (param, kept) in params.iter_mut().zip(states) {
            unpack(param.state, kept);
        }
        Ok(())
    }
}

macro_rules! with_hooks {
    ($($hook:ident),*) => {
        unsafe extern "C" fn hook(
            this: *mut (),
            name: RStr<'_>,
            params: RVec<WireParam<'_>>,
        ) -> States {
            guard(|| {
                let work = |optimizer: &mut dyn Optimizer, params: &mut [Param]| match name.as_str() {
                    $(stringify!($hook) => optimizer.$hook(params),)*
                    _ => Ok(()),
                };
                // SAFETY: as in `step`.
                unsafe { on_params(this, params, work) }
            })
        }

        impl Optimizer for Imported<OptimizerTableRef> {
    imported_check!();

            fn begin(&mut self, run: &Run) -> Result<()> {
                let Some(call) = self.object.table().begin() else {
                    return Ok(());
                };
                // SAFETY: pointer and table belong together.
                let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
                self.origin.context("begin", wire)
            }

            fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
                let call = self.object.table().step();
                // SAFETY: pointer and table belong together; names outlive the call.
                self.send("step", params, |this, wire| unsafe { call(this, wire, info.step) })
            }

            fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
                let Some(call) = self.object.table().step_with() else {
                    return self.step(params, &step.info());
                };
                let number = step.info().step;
                let (groups, mut again) = step.parts();
                let Grouping { groups, members } = match &groups {
                    Some(grouping) => *grouping,
                    None => Grouping { groups: &[], members: &[] },
                };
                let sent = to_json(&Sent {
                    step: number,
                    groups: (!groups.is_empty()).then_some(groups),
                    members,
                })?;
                let again = match &mut again {
                    Some(again) => WireAgain {
                        host: std::ptr::from_mut(again).cast(),
                        call: Some(run_again),
                    },
                    None => WireAgain { host: std::ptr::null_mut(), call: None },
                };
                self.send("step_with", params, |this, wire| {
                    // SAFETY: as in `step`; the passes outlive the call.
                    unsafe { call(this, wire, sent.as_rstr(), again) }
                })
            }

            fn save_state(&self) -> Result<Value> {
                let Some(call) = self.object.table().save_state() else {
                    return Ok(Value::Null);
                };
                // SAFETY: pointer and table belong together.
                let json = self.origin.context("save_state", unsafe { call(self.object.this()) })?;
                Ok(serde_json::from_str(&json)?)
            }

            fn state_bytes(&self, name: &str, shape: &[usize]) -> Result<Option<u64>> {
                let Some(call) = self.object.table().state_bytes() else {
                    return Ok(None);
                };
                // SAFETY: pointer and table belong together; name and shape outlive the call.
                let wire = unsafe { call(self.object.this(), name.into(), shape.into()) };
                let bytes = self.origin.context("state_bytes", wire)?;
                Ok(bytes.into_option())
            }

            fn load_state(&mut self, saved: Value) -> Result<()> {
                let Some(call) = self.object.table().load_state() else {
                    return Ok(());
                };
                let json = to_json(&saved)?;
                // SAFETY: pointer and table belong together; the text outlives the call.
                let loaded = unsafe { call(self.object.this(), json.as_rstr()) };
                self.origin.context("load_state", loaded)
            }

            $(fn $hook(&mut self, params: &mut [Param]) -> Result<()> {
                let Some(call) = self.object.table().hook() else {
                    return Ok(());
                };
                let name = stringify!($hook);
                // SAFETY: as in `step`.
                self.send(name, params, |this, wire| unsafe { call(this, name.into(), wire) })
            })*
        }
    };
}
with_hooks!(
    before_evaluation,
    after_evaluation,
    before_saving,
    after_saving
);
