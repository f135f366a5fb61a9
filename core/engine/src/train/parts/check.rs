//! Components look at the set-up of a run before its model is read, and say what contradicts them.

use super::Components;
use super::intent::with_flags;
use crate::setup::ask;
use crate::train::args::args;
use crate::tuners::{self, MadeTuner};
use anyhow::{Context, Result};
use apus_components::config::{SftConfig, TrainType};
use apus_components::registry::{self, Named, Spec};
use apus_data::data::named;
use apus_sdk::abi::Crosses;
use apus_sdk::{Dataset, DatasetFormat, Kind, LossScale, RunInfo, Setup};
use serde_json::Value;

/// The components that are made where they are used, for this alone.
#[derive(Default)]
struct OfTheConfiguration {
    scales: Vec<Named<dyn LossScale>>,
    formats: Vec<Named<dyn DatasetFormat>>,
    datasets: Vec<Named<dyn Dataset>>,
    tuner: Option<MadeTuner>,
}

impl OfTheConfiguration {
    fn make(config: &SftConfig) -> Result<Self> {
        let mut formats = each(config.dataset_format.as_slice())?;
        let mut datasets = Vec::new();
        for dataset in config.dataset.iter().chain(&config.val_dataset) {
            let of_it = || format!("dataset `{dataset}`");
            let (component, format) = named::component(dataset.parts()?, &config.dataset_options())
                .with_context(of_it)?;
            datasets.extend(component);
            if let Some(format) = format {
                formats.push(registry::named(&format).with_context(of_it)?);
            }
        }
        let tuner = match &config.train_type {
            TrainType::Tuner(spec) => Some(tuners::make(&with_flags(config, spec))?),
            TrainType::Lora | TrainType::Full => None,
        };
        Ok(Self {
            scales: each(&config.loss_scale)?,
            formats,
            datasets,
            tuner,
        })
    }
}

fn each<T: Crosses + ?Sized>(specs: &[Spec]) -> Result<Vec<Named<T>>> {
    specs.iter().map(registry::named).collect()
}

/// Asks all components of a run, which is of `size` processes, this one the `rank`th of them. `rows` are the examples that are
/// trained on, once they are known.
///
/// # Errors
/// What a component says against it, with its name.
pub fn check(
    config: &SftConfig,
    components: &Components,
    (rank, size): (usize, usize),
    rows: Option<usize>,
) -> Result<()> {
    let made = OfTheConfiguration::make(config)?;
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
    let optimizer = &optimizer.optimizer;
    let setup = setup
        .with_components(Kind::Loss, [&loss.name])
        .with_components(Kind::Optimizer, [&optimizer.name])
        .with_components(Kind::LrSchedule, [&schedule.name])
        .with_components(Kind::Sampler, [&sampler.name])
        .with_components(Kind::Callback, names(callbacks))
        .with_components(Kind::Metric, names(metrics))
        .with_components(Kind::Tracker, names(trackers))
        .with_components(Kind::LossScale, names(&made.scales))
        .with_components(Kind::DatasetFormat, names(&made.formats))
        .with_components(Kind::Dataset, names(&made.datasets))
        .with_components(Kind::Tuner, made.tuner.iter().map(|tuner| &tuner.name));
    ask(loss, &setup, |of, setup| of.check(setup))?;
    ask(optimizer, &setup, |of, setup| of.check(setup))?;
    ask(schedule, &setup, |of, setup| of.check(setup))?;
    ask(sampler, &setup, |of, setup| of.check(setup))?;
    macro_rules! ask_each {
        ($($components:expr),*) => {
            $(for of in $components {
                ask(of, &setup, |of, setup| of.check(setup))?;
            })*
        };
    }
    ask_each!(
        callbacks,
        metrics,
        trackers,
        &made.scales,
        &made.formats,
        &made.datasets,
        made.tuner.iter()
    );
    Ok(())
}

fn names<T: ?Sized>(components: &[Named<T>]) -> impl Iterator<Item = &String> {
    components.iter().map(|component| &component.name)
}
