//! Schedules across the boundary.

use super::guard::guard;
use super::object::{Imported, component, crosses_by};
use crate::{LrSchedule, Progress, Result, Wire};
use abi_stable::StableAbi;

/// A schedule's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ScheduleTableRef)))]
pub struct ScheduleTable {
    /// The factor after `(step, total, warmup, learning_rate)`.
    #[sabi(last_prefix_field)]
    pub factor: unsafe extern "C" fn(*const (), u64, u64, u64, f64) -> Wire<f64>,
}

crosses_by!(ScheduleTable { factor } as ScheduleTableRef for dyn LrSchedule);

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

impl LrSchedule for Imported<ScheduleTableRef> {
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
