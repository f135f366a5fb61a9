//! `apus infer`

use crate::{Ended, Failure};
use apus_core::config::{InferConfig, from_arguments};

pub fn run(words: &[String]) -> Result<Ended, Failure> {
    let resolved = from_arguments::<InferConfig>(words).map_err(Failure::Usage)?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    apus_core::generate::infer(&resolved.config).map_err(Failure::Run)?;
    Ok(Ended::Done)
}
