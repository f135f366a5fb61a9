//! Components that a command makes only where it uses them, made at its start to be asked (`Need::Check`). A scale or a format that does
//! not ask for that is made once, where it is used: a program is told of each that is made.

use super::Chosen;
use crate::tuners::{self, MadeTuner};
use anyhow::{Context, Result};
use apus_components::config::{DatasetSpec, SftConfig};
use apus_components::registry::{self, Named, Spec};
use apus_data::data::named;
use apus_model::adapter::TunedConfig;
use apus_sdk::abi::Crosses;
use apus_sdk::{Dataset, DatasetFormat, Kind, LossScale, Need, Options};
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
    /// What was chosen by name, made here or not.
    names: Vec<(Kind, String)>,
}

impl MadeLater {
    /// Those that the data of a run needs.
    ///
    /// # Errors
    /// An unknown name, or options that do not fit.
    pub fn of_data(config: &SftConfig) -> Result<Self> {
        let mut made = Self::default();
        for spec in config.loss_scale.iter() {
            let scale = made.asked(spec)?;
            made.scales.extend(scale);
        }
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
            let made = self.asked(spec)?;
            self.formats
                .extend(made.map(|made| (&["dataset_format"][..], made)));
        }
        Ok(())
    }

    /// The component of this name, if it is to be asked.
    fn asked<T: Crosses + ?Sized>(&mut self, spec: &Spec) -> Result<Option<Named<T>>> {
        self.names.push((T::KIND, spec.name.clone()));
        let is_asked = registry::declares(T::KIND, &spec.name, Need::Check);
        is_asked.then(|| registry::named(spec)).transpose()
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
                let made = self.asked(&format).with_context(of_it)?;
                self.formats.extend(made.map(|made| (flag, made)));
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
        for (kind, name) in &self.names {
            chosen.add_name(*kind, name);
        }
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
