//! `apus infer`

use crate::{Ended, Failure};
use apus_base::signals;
use apus_components::config::{InferConfig, Resolved};
use apus_sdk::errln;

/// Runs the command.
pub fn run(resolved: &Resolved<InferConfig>) -> Result<Ended, Failure> {
    for note in &resolved.notes {
        errln!("note: {note}");
    }
    let answered =
        apus_engine::generate::infer(resolved).and_then(|()| apus_engine::eval::of_infer(resolved));
    match answered {
        Err(error) if signals::is_interrupted(&error) => Ok(Ended::Interrupted),
        result => result.map(|()| Ended::Done).map_err(Failure::Run),
    }
}
