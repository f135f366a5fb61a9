//! `apus model new`

use crate::{Ended, Failure};
use apus_components::config::{ModelNewConfig, Resolved};
use apus_sdk::outln;

/// Runs the command.
pub fn run(resolved: &Resolved<ModelNewConfig>) -> Result<Ended, Failure> {
    let dir = apus_engine::model_new::model_new(&resolved.config).map_err(Failure::Run)?;
    outln!("written: {}", dir.display());
    Ok(Ended::Done)
}
