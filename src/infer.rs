//! `apus infer`

use crate::{Ended, Failure};
use apus_components::config::{InferConfig, Resolved};
use apus_sdk::errln;

/// Runs the command.
pub fn run(resolved: &Resolved<InferConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    apus_engine::generate::infer(&resolved.config).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
