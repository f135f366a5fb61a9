//! `apus eval`

use crate::{Ended, Failure};
use apus_components::config::{EvalConfig, Resolved};
use apus_sdk::errln;

/// Runs the command.
pub fn run(resolved: &Resolved<EvalConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    let given = |flag: &str| resolved.given(flag);
    let idle = EvalConfig::idle(&given);
    if !idle.is_empty() {
        errln!(
            "note: {}: about training, nothing to do here",
            idle.join(", ")
        );
    }
    let flags = resolved.config.sft(&serde_json::Map::new(), &given);
    let flags = flags.map_err(Failure::Usage)?;
    resolved.config.check(&flags).map_err(Failure::Usage)?;
    apus_engine::eval::run(resolved).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
