//! `apus sft`

use crate::{Ended, Failure};
use apus_core::config::{SftConfig, from_arguments};

pub fn run(words: &[String]) -> Result<Ended, Failure> {
    let resolved = from_arguments::<SftConfig>(words).map_err(Failure::Usage)?;
    match apus_core::train::run(&resolved).map_err(Failure::Run)? {
        true => Ok(Ended::Interrupted),
        false => Ok(Ended::Done),
    }
}
