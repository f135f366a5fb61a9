//! What callbacks ask of the parameters and of checkpoints, done between steps.

use super::Run;
use crate::train::events::Asked;
use crate::train::ranks::Ranks;
use crate::train::requested::matching;
use anyhow::{Context, Result, bail, ensure};
use apus_base::lines::info;
use apus_sdk::Request;

impl Run<'_> {
    /// Does what callbacks have asked for since the last time. It holds from the next step on, and is in the next checkpoint; of
    /// `free` steps (from 0 to it) the micro-batches are taken already.
    pub(super) fn do_requests(&mut self, free: u64) -> Result<()> {
        self.checkpoints.keep_asked(&mut self.events)?;
        let asked = self.events.take_of_parameters();
        let Some(Asked { by: last, .. }) = asked.last() else {
            return Ok(());
        };
        let step = self.progress.state.global_step;
        let params = self.learner.model.params();
        let named = |by: &str, names: &str| match self.learner.optimizer.of_group(names) {
            Some(group) => Ok(group),
            None => {
                let all = params.iter().map(|param| param.name());
                matching(names, all).with_context(|| by.to_owned())
            }
        };
        let mut requested = self.learner.requested.clone();
        for Asked { by, request } in &asked {
            match request {
                Request::Freeze(names) => requested.freeze(named(by, names)?),
                Request::Unfreeze(names) => requested.unfreeze(named(by, names)?, step),
                Request::LrFactor(names, factor) => {
                    requested.set_lr_factor(named(by, names)?, *factor);
                }
                Request::Accumulation(steps) => {
                    let ranks = self.learner.ranks.as_ref().map_or(1, Ranks::size);
                    let all = usize::try_from(*steps)
                        .ok()
                        .and_then(|steps| steps.checked_mul(ranks));
                    let all = all.with_context(|| format!("{by}: {steps} are too many"))?;
                    self.progress.change_accumulation(free, all);
                    info!(
                        "{by}: from step {} on a step has {all} micro-batches, and the run has {} steps",
                        free + 1,
                        self.progress.steps.total
                    );
                }
                other => bail!("{by}: asks for {other:?}, which this version does not do"),
            }
        }
        ensure!(
            params
                .iter()
                .any(|param| !requested.frozen.contains(param.name())),
            "{last}: all parameters are frozen now, and nothing is left to train; unfreeze some in the same event"
        );
        match requested == self.learner.requested {
            true => Ok(()),
            false => self.learner.obey(requested),
        }
    }
}
