//! `apus bench`

use crate::{Ended, Failure, ranks};
use apus_components::config::{BenchConfig, Resolved};

/// Runs the command.
pub fn run(resolved: &Resolved<BenchConfig>) -> Result<Ended, Failure> {
    resolved.config.check().map_err(Failure::Usage)?;
    // Operations and answers are timed on one card.
    if !resolved.config.ops
        && !resolved.config.generate
        && let Some(status) = ranks::launch(&resolved.config.device).map_err(Failure::Run)?
    {
        return Ok(Ended::Status(status));
    }
    apus_engine::bench::run(resolved).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
