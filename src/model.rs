//! `apus model new`

use crate::{Ended, Failure};
use apus_core::config::{ModelNewConfig, from_arguments};

pub fn run(words: &[String]) -> Result<Ended, Failure> {
    let resolved = from_arguments::<ModelNewConfig>(words).map_err(Failure::Usage)?;
    let dir = apus_core::synthetic::model_new(&resolved.config).map_err(Failure::Run)?;
    println!("written: {}", dir.display());
    Ok(Ended::Done)
}
