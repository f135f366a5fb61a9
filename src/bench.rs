//! `apus bench`

use crate::{Ended, Failure};
use apus_core::config::{BenchConfig, Resolved};

/// Runs the command.
pub fn run(resolved: &Resolved<BenchConfig>) -> Result<Ended, Failure> {
    resolved.config.check().map_err(Failure::Usage)?;
    apus_core::bench::run(resolved).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
