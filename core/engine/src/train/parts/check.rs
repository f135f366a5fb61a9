//! Components look at the set-up of a run before its model is read, and say what contradicts them.

use super::Components;
use super::intent::with_flags;
use crate::setup::{Chosen, MadeLater};
use crate::train::args::args;
use anyhow::Result;
use apus_components::config::{Resolved, SftConfig, TrainType};
use apus_sdk::{RunInfo, Setup};
use serde_json::Value;
use std::path::Path;

/// Asks all components of a run, which is of `size` processes, this one the `rank`th of them. `rows` are the examples that are
/// trained on, once they are known. The configuration is that of `resolved` with what is known of it by now.
///
/// # Errors
/// What a component says against it, with its name.
pub fn check(
    resolved: &Resolved<SftConfig>,
    config: &SftConfig,
    components: &Components,
    (rank, size): (usize, usize),
    rows: Option<usize>,
) -> Result<()> {
    let mut later = MadeLater::of_data(config)?;
    if let TrainType::Tuner(spec) = &config.train_type {
        later.add_tuner(&with_flags(config, spec))?;
    }
    later.add_adapters(config.adapters.iter().map(Path::new))?;
    let args = args(config);
    let info = RunInfo {
        name: config.run_name.clone().unwrap_or_default(),
        dir: config.output_dir.clone().into(),
        config: args.clone(),
        rank,
        world_size: size,
        ..RunInfo::default()
    };
    let mut setup = Setup::new(Value::Object(args)).with_info(info);
    if let Some(rows) = rows {
        setup = setup.with_rows(rows as u64);
    }
    let Components {
        loss,
        optimizer,
        schedule,
        sampler,
        callbacks,
        metrics,
        trackers,
    } = components;
    let mut chosen = Chosen::default();
    chosen.add(&["loss_type"], [loss]);
    chosen.add(&["optimizer"], optimizer.all());
    chosen.add(&["lr_scheduler"], [schedule]);
    chosen.add(&["sampler"], [sampler]);
    chosen.add(&["callbacks", "lr_scheduler"], callbacks);
    chosen.add(&["metrics"], metrics);
    chosen.add(&["trackers", "report_to"], trackers);
    later.add_to(&mut chosen);
    chosen.check(setup, resolved)
}
