//! `apus bench`

use crate::{Ended, Failure};
use apus_components::config::{BenchConfig, Resolved};

/// Runs the command.
pub fn run(resolved: &Resolved<BenchConfig>) -> Result<Ended, Failure> {
    resolved.config.check().map_err(Failure::Usage)?;
    apus_engine::bench::run(resolved).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
