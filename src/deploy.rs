//! `apus deploy`

use crate::{Ended, Failure};
use apus_components::config::{DeployConfig, Resolved};
use apus_sdk::errln;

/// Runs the command, until a signal ends it.
pub fn run(resolved: &Resolved<DeployConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    apus_engine::serve::deploy(resolved).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
