//! `apus export`

use crate::{Ended, Failure};
use apus_core::config::{ExportConfig, Resolved};

/// Runs the command.
pub fn run(resolved: &Resolved<ExportConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let dir = apus_core::export::run(&resolved.config).map_err(Failure::Run)?;
    println!("written: {}", dir.display());
    Ok(Ended::Done)
}
