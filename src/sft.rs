//! `apus sft`

use crate::{Ended, Failure, ranks};
use apus_components::config::{Resolved, SftConfig};

/// Runs the command.
pub fn run(resolved: &Resolved<SftConfig>) -> Result<Ended, Failure> {
    resolved
        .config
        .check(&|flag| resolved.given(flag))
        .map_err(Failure::Usage)?;
    // A dry run plans for all ranks in one process.
    if !resolved.config.dry_run
        && let Some(status) = ranks::launch(&resolved.config.device).map_err(Failure::Run)?
    {
        return Ok(Ended::Status(status));
    }
    match apus_engine::train::run(resolved).map_err(Failure::Run)? {
        true => Ok(Ended::Interrupted),
        false => Ok(Ended::Done),
    }
}
