//! Schedules across the boundary.

use super::guard::guard;
use super::object::{Imported, check_by, component, component_mut, crosses_by, imported_check};
use super::run::WireRun;
use crate::{LrSchedule, Progress, Result, Run, Wire};
use abi_stable::StableAbi;
use abi_stable::std_types::RStr;

/// A schedule's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ScheduleTableRef)))]
pub struct ScheduleTable {
    /// The factor after `(step, total, warmup, learning_rate)`.
    #[sabi(last_prefix_field)]
    pub factor: unsafe extern "C" fn(*const (), u64, u64, u64, f64) -> Wire<f64>,
    /// See [`LrSchedule::begin`]; since 1.1.
    pub begin: unsafe extern "C" fn(*mut (), WireRun) -> Wire<()>,
    /// See [`LrSchedule::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
}

crosses_by!(ScheduleTable { factor, begin, check } as ScheduleTableRef for dyn LrSchedule);

check_by!(dyn LrSchedule);

unsafe extern "C" fn factor(
    this: *const (),
    step: u64,
    total: u64,
    warmup: u64,
    learning_rate: f64,
) -> Wire<f64> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer.
        let schedule = unsafe { component::<dyn LrSchedule>(this) };
        schedule.factor(&Progress {
            step,
            total,
            warmup,
            learning_rate,
        })
    })
}

unsafe extern "C" fn begin(this: *mut (), run: WireRun) -> Wire<()> {
    guard(|| {
        let run = run.take()?;
        // SAFETY: the host gives the object's own pointer and uses it nowhere else meanwhile.
        unsafe { component_mut::<dyn LrSchedule>(this) }.begin(&run)
    })
}

impl LrSchedule for Imported<ScheduleTableRef> {
    imported_check!();

    fn begin(&mut self, run: &Run) -> Result<()> {
        let Some(call) = self.object.table().begin() else {
            return Ok(());
        };
        // SAFETY: pointer and table belong together.
        let wire = unsafe { call(self.object.this(), WireRun::give(run)) };
        self.origin.context("begin", wire)
    }

    fn factor(&self, progress: &Progress) -> Result<f64> {
        let Progress {
            step,
            total,
            warmup,
            learning_rate,
        } = *progress;
        let (this, call) = (self.object.this(), self.object.table().factor());
        // SAFETY: pointer and table belong together.
        self.origin.context("factor", unsafe {
            call(this, step, total, warmup, learning_rate)
        })
    }
}
