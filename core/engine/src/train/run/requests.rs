//! What callbacks ask of the parameters and of checkpoints, done between steps.

use super::Run;
use crate::train::events::Asked;
use crate::train::requested::matching;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::Request;

impl Run<'_> {
    /// Does what callbacks have asked for since the last time. It holds from the next step on, and is in the next checkpoint.
    pub(super) fn do_requests(&mut self) -> Result<()> {
        self.checkpoints.keep_asked(&mut self.events)?;
        let asked = self.events.take_of_parameters();
        let Some(Asked { by: last, .. }) = asked.last() else {
            return Ok(());
        };
        let step = self.progress.state.global_step;
        let params = self.learner.model.params();
        let named = |by: &str, names: &str| {
            matching(names, params.iter().map(|param| param.name())).with_context(|| by.to_owned())
        };
        let mut requested = self.learner.requested.clone();
        for Asked { by, request } in &asked {
            match request {
                Request::Freeze(names) => requested.freeze(named(by, names)?),
                Request::Unfreeze(names) => requested.unfreeze(named(by, names)?, step),
                Request::LrFactor(names, factor) => {
                    requested.set_lr_factor(named(by, names)?, *factor);
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
