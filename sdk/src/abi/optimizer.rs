//! Optimizers across the boundary.
//!
//! What an optimizer keeps about a parameter goes out with a step and comes back with its end. If the
//! step fails it is lost: the host keeps copies of what it wants to go on with.

use super::guard::guard;
use super::object::{Imported, component_mut, crosses_by};
use super::run::WireRun;
use crate::{Optimizer, Param, Result, Run, State, StepInfo, Tensor, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::{RStr, RString, RVec};

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
    name: RString,
    tensor: Tensor,
}

crosses_by!(OptimizerTable { step, begin } as OptimizerTableRef for dyn Optimizer);

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

unsafe extern "C" fn step(
    this: *mut (),
    params: RVec<WireParam<'_>>,
    number: u64,
) -> Wire<RVec<RVec<Kept>>> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
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
        optimizer.step(&mut given, &StepInfo { step: number })?;
        drop(given);
        Ok(states.iter_mut().map(pack).collect())
    })
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn Optimizer>(this) }.begin(&run)
    })
}

impl Optimizer for Imported<OptimizerTableRef> {
    fn begin(&mut self, run: &Run) -> Result<()> {
        let Some(call) = self.object.table().begin() else {
            return Ok(());
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
        self.origin.context("begin", wire)
    }

    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let wire = params.iter_mut().map(|param| WireParam {
            name: param.name.into(),
            value: param.value.clone(),
            grad: param.grad.clone(),
            lr: param.lr,
            decay: param.decay,
            state: pack(param.state),
        });
        let wire: RVec<WireParam> = wire.collect();
        let (this, call) = (self.object.this(), self.object.table().step());
        // SAFETY: pointer and table belong together; names outlive the call.
        let states = self
            .origin
            .context("step", unsafe { call(this, wire, info.step) })?;
        for (param, kept) in params.iter_mut().zip(states) {
            unpack(param.state, kept);
        }
        Ok(())
    }
}
