//! `apus export`

use crate::{Ended, Failure};
use apus_core::config::{ExportConfig, from_arguments};

pub fn run(words: &[String]) -> Result<Ended, Failure> {
    let resolved = from_arguments::<ExportConfig>(words).map_err(Failure::Usage)?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let dir = apus_core::export::run(&resolved.config).map_err(Failure::Run)?;
    println!("written: {}", dir.display());
    Ok(Ended::Done)
}
