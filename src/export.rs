//! `apus export`

use crate::{Ended, Failure};
use apus_components::config::{ExportConfig, Resolved};
use apus_sdk::{errln, outln};

/// Runs the command.
pub fn run(resolved: &Resolved<ExportConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    let dir = apus_engine::export::run(resolved).map_err(Failure::Run)?;
    outln!("written: {}", dir.display());
    Ok(Ended::Done)
}
