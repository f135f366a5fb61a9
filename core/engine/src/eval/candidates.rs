//! The models that are measured: a base, and adapters on it.
//!
//! The base is loaded once, and low-rank adapters are put on it one after another. An adapter that stores modules whole
//! replaces weights of the base, so that it gets a copy of the base of its own, after the others.

use crate::setup::{ModelPlace, RunArgs, base_of, find_model, load, load_options};
use crate::tuners::OpenedAdapter;
use anyhow::{Result, bail};
use apus_base::lines::info;
use apus_components::config::SftConfig;
use apus_components::plugin;
use apus_model::model::{CausalLm, Training};
use candle_core::Device;
use std::path::{Path, PathBuf};

/// The name of the model without an adapter.
const BASE: &str = "base";

/// What is measured, before the base model is looked for.
pub struct Names {
    /// The name of the base model.
    pub name: String,
    /// Settings of the runs that made the adapters, or else the model, by name.
    pub args: Vec<(String, RunArgs)>,
    dirs: Vec<PathBuf>,
}

/// What is measured, before anything is loaded.
pub struct Place {
    /// The base model.
    pub model: ModelPlace,
    /// The models in the order in which they are shown: their names, and the folders of adapters.
    models: Vec<(String, Option<PathBuf>)>,
    names: Vec<String>,
}

impl Names {
    /// The names of a configuration.
    ///
    /// # Errors
    /// Neither model nor adapter, or an adapter that is not there.
    pub fn of(config: &SftConfig) -> Result<Self> {
        let is_adapter = |dir: &str| Path::new(dir).join("adapter_config.json").is_file();
        let mut adapters = config.adapters.clone();
        let mut name = config.model.clone();
        if is_adapter(&name) {
            adapters.insert(0, std::mem::take(&mut name));
        }
        if name.is_empty() {
            let Some(first) = adapters.first() else {
                bail!("--model or --adapters is missing");
            };
            name = base_of(Path::new(first))?.display().to_string();
        }
        let dirs: Vec<PathBuf> = adapters.iter().map(PathBuf::from).collect();
        let mut args = Vec::new();
        for (name, dir) in short_names(&dirs).into_iter().zip(&dirs) {
            args.push((name, RunArgs::beside(dir)?));
            for line in plugin::compare(dir) {
                info!("note: {line}");
            }
        }
        if dirs.is_empty() {
            args.push((BASE.to_owned(), RunArgs::beside(Path::new(&name))?));
        }
        Ok(Self { name, args, dirs })
    }

    /// The folders of the adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(PathBuf::as_path)
    }

    /// Finds the base model.
    ///
    /// # Errors
    /// There is no such model.
    pub fn find(self, config: &SftConfig, with_base: bool) -> Result<Place> {
        let Self { name, args, dirs } = self;
        // A synthetic base has the weights of the run's seed.
        let seed = args.first().and_then(|(_, args)| args.seed());
        let model = find_model(&name, seed.unwrap_or(config.seed))?;
        let base = (with_base || dirs.is_empty()).then(|| (BASE.to_owned(), None));
        let names = short_names(&dirs).into_iter();
        let of_adapters = names.zip(dirs.into_iter().map(Some));
        let models: Vec<_> = base.into_iter().chain(of_adapters).collect();
        Ok(Place {
            model,
            names: models.iter().map(|(name, _)| name.clone()).collect(),
            models,
        })
    }
}

impl Place {
    /// The names of what is measured, the base first.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// As many of the last parts of each path as tell all of them apart.
fn short_names(dirs: &[PathBuf]) -> Vec<String> {
    let parts = |dir: &Path, count: usize| {
        let all: Vec<String> = dir
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        all[all.len().saturating_sub(count)..].join("/")
    };
    let longest = dirs.iter().map(|dir| dir.components().count()).max();
    let names = |count| dirs.iter().map(|dir| parts(dir, count)).collect::<Vec<_>>();
    let all_differ = |names: &Vec<String>| {
        let mut sorted = names.clone();
        sorted.sort_unstable();
        !names.iter().any(|name| name == BASE) && sorted.windows(2).all(|pair| pair[0] != pair[1])
    };
    let counts = 1..=longest.unwrap_or(0);
    let found = counts.map(names).find(all_differ);
    found.unwrap_or_else(|| dirs.iter().map(|dir| dir.display().to_string()).collect())
}

/// The models, loaded as they are asked for.
pub struct Candidates<'a> {
    place: &'a Place,
    config: &'a SftConfig,
    adapters: Vec<Option<OpenedAdapter>>,
    loaded: Option<CausalLm>,
    /// Whether the weights of the model that is loaded are those of the base.
    is_shared: bool,
}

impl<'a> Candidates<'a> {
    /// Reads and checks the adapters.
    ///
    /// # Errors
    /// An adapter that is broken, or not for this model; the error names it.
    pub fn open(place: &'a Place, config: &'a SftConfig) -> Result<Self> {
        let open = |(name, dir): &(String, Option<PathBuf>)| {
            let Some(dir) = dir else {
                return Ok(None);
            };
            let adapter = OpenedAdapter::open(dir, &place.model.config)?;
            for note in adapter.notes() {
                info!("note: {name}: {note}");
            }
            Ok(Some(adapter))
        };
        Ok(Self {
            adapters: place.models.iter().map(open).collect::<Result<_>>()?,
            place,
            config,
            loaded: None,
            is_shared: false,
        })
    }

    /// The model of this number, ready to be measured.
    ///
    /// # Errors
    /// Weights that are missing or do not fit, out of memory.
    pub fn model(&mut self, number: usize, device: &Device) -> Result<&CausalLm> {
        let adapter = self.adapters[number].as_ref();
        let saved = adapter.map(|adapter| adapter.modules_to_save().to_vec());
        let saved = saved.unwrap_or_default();
        let can_share = saved.is_empty();
        if !can_share && self.is_shared {
            info!(
                "{}: {} is stored whole, so the base is loaded again for it",
                self.place.names[number],
                saved.join(", ")
            );
        }
        let shared = self.loaded.take().filter(|_| can_share && self.is_shared);
        let mut model = match shared {
            Some(model) => model,
            None => {
                let options = load_options(
                    device,
                    self.config.torch_dtype,
                    self.config.experts_dtype,
                    Training::Adapters(saved),
                )?;
                load(&self.place.model, &options)?
            }
        };
        self.is_shared = can_share;
        model.remove_lora();
        if let Some(adapter) = adapter {
            adapter.put_on(&mut model)?;
        }
        Ok(self.loaded.insert(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let names =
            |dirs: &[&str]| short_names(&dirs.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["a/run/checkpoint-2"]), ["checkpoint-2"]);
        assert_eq!(
            names(&["a/x/checkpoint-2", "b/y/checkpoint-2", "b/y/checkpoint-4"]),
            ["x/checkpoint-2", "y/checkpoint-2", "y/checkpoint-4"]
        );
        assert_eq!(names(&["runs/base", "b"]), ["runs/base", "b"]);
        assert_eq!(names(&["a", "a"]), ["a", "a"]);
        assert!(names(&[]).is_empty());
    }
}
