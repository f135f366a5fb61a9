//! `apus data`

use crate::{Ended, Failure};
use apus_components::config::{DataConfig, Resolved};
use apus_sdk::errln;

/// Runs the command.
pub fn run(resolved: &Resolved<DataConfig>) -> Result<Ended, Failure> {
    let run = resolved.config.sft().map_err(Failure::Usage)?;
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    apus_engine::preview::run(resolved, &run).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
