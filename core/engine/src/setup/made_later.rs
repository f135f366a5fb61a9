//! Components that a command makes only where it uses them, made at its start to be asked (`Need::Check`).

use super::Chosen;
use crate::tuners::{self, MadeTuner};
use anyhow::{Context, Result};
use apus_components::config::{DatasetSpec, SftConfig};
use apus_components::registry::{self, Named, Spec};
use apus_data::data::named;
use apus_model::adapter::TunedConfig;
use apus_sdk::{Dataset, DatasetFormat, LossScale, Options};
use std::path::Path;

/// A component and the flag that chooses it.
type Flagged<T> = (&'static [&'static str], T);

/// Components that are made to be asked, and for this alone.
#[derive(Default)]
pub struct MadeLater {
    scales: Vec<Named<dyn LossScale>>,
    formats: Vec<Flagged<Named<dyn DatasetFormat>>>,
    datasets: Vec<Flagged<Named<dyn Dataset>>>,
    tuners: Vec<Flagged<MadeTuner>>,
}

impl MadeLater {
    /// Those that the data of a run needs.
    ///
    /// # Errors
    /// An unknown name, or options that do not fit.
    pub fn of_data(config: &SftConfig) -> Result<Self> {
        let mut made = Self::default();
        let scales = config.loss_scale.iter().map(registry::named);
        made.scales = scales.collect::<Result<_>>()?;
        made.add_format(config.dataset_format.as_ref())?;
        let options = config.dataset_options();
        made.add_datasets(&["dataset"], &config.dataset, &options)?;
        made.add_datasets(&["val_dataset"], &config.val_dataset, &options)?;
        Ok(made)
    }

    /// The format of rows, if one is given.
    ///
    /// # Errors
    /// An unknown name, or options that do not fit.
    pub fn add_format(&mut self, format: Option<&Spec>) -> Result<()> {
        if let Some(spec) = format {
            self.formats
                .push((&["dataset_format"], registry::named(spec)?));
        }
        Ok(())
    }

    /// Datasets that are components, and the formats that datasets name.
    ///
    /// # Errors
    /// An unknown name, or options that do not fit.
    pub fn add_datasets(
        &mut self,
        flag: &'static [&'static str],
        datasets: &[DatasetSpec],
        options: &Options,
    ) -> Result<()> {
        for dataset in datasets {
            let of_it = || format!("dataset `{dataset}`");
            let (component, format) =
                named::component(dataset.parts()?, options).with_context(of_it)?;
            self.datasets
                .extend(component.map(|component| (flag, component)));
            if let Some(format) = format {
                let made = registry::named(&format).with_context(of_it)?;
                self.formats.push((flag, made));
            }
        }
        Ok(())
    }

    /// A tuner that trains.
    ///
    /// # Errors
    /// An unknown name, or options that do not fit.
    pub fn add_tuner(&mut self, spec: &Spec) -> Result<()> {
        self.tuners.push((&["train_type"], tuners::make(spec)?));
        Ok(())
    }

    /// The tuners that have trained these adapters. A folder that holds no such adapter is for whoever opens it.
    ///
    /// # Errors
    /// A file that is malformed, a tuner that there is not, or options that it does not take.
    pub fn add_adapters<'a>(&mut self, dirs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        for dir in dirs {
            if let Some(config) = TunedConfig::read(dir)? {
                let tuner = tuners::make(&Spec {
                    name: config.name,
                    options: config.options,
                });
                let tuner = tuner.with_context(|| dir.display().to_string())?;
                self.tuners.push((&["adapters", "model"], tuner));
            }
        }
        Ok(())
    }

    /// Adds them to those that are asked.
    pub fn add_to<'a>(&'a self, chosen: &mut Chosen<'a>) {
        chosen.add(&["loss_scale"], &self.scales);
        for (flag, format) in &self.formats {
            chosen.add(flag, [format]);
        }
        for (flag, dataset) in &self.datasets {
            chosen.add(flag, [dataset]);
        }
        for (flag, tuner) in &self.tuners {
            chosen.add(flag, [&**tuner]);
        }
    }
}
