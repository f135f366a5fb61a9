//! An adapter in a folder, whoever trained it: low-rank updates as PEFT writes them, or what a tuner has added.

use super::bound::{Bound, additions};
use super::{MadeTuner, make};
use anyhow::{Context, Result, bail, ensure};
use apus_components::registry::Spec;
use apus_model::adapter::{Adapter, TunedConfig, tuned_tensors, whole_tensors};
use apus_model::families::ModelConfig;
use apus_model::model::updates::PREFIX;
use apus_model::model::{Addition, CausalLm, Targets, UpdateSet};
use apus_model::nn::Param;
use apus_model::ops::lora::Factors;
use apus_model::weights::{Directory, WeightSource};
use apus_sdk::{LayerKind, Options};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An adapter that has been read and checked for a model.
pub enum OpenedAdapter {
    /// LoRA, rsLoRA or DoRA.
    LowRank(Box<Adapter>),
    /// What a tuner has trained.
    Tuned(Box<TunedAdapter>),
}

/// What a tuner has trained.
pub struct TunedAdapter {
    /// Its configuration.
    pub config: TunedConfig,
    /// What the tuner adds.
    pub additions: Vec<Addition>,
    dir: PathBuf,
    model: ModelConfig,
    tuner: MadeTuner,
    tensors: BTreeMap<String, Tensor>,
}

impl OpenedAdapter {
    /// Reads an adapter for a model of this shape.
    ///
    /// # Errors
    /// As [`Adapter::open`]; a tuner that there is not, or that adds other parameters than those in the folder.
    pub fn open(dir: &Path, model: &ModelConfig) -> Result<Self> {
        match TunedConfig::read(dir)? {
            None => Ok(Self::LowRank(Box::new(Adapter::open(dir, model)?))),
            Some(config) => {
                let tuned = TunedAdapter::open(dir, model, config);
                let tuned = tuned.with_context(|| dir.display().to_string())?;
                Ok(Self::Tuned(Box::new(tuned)))
            }
        }
    }

    /// Notes for the user about what may be unexpected.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::LowRank(adapter) => &adapter.notes,
            Self::Tuned(_) => &[],
        }
    }

    /// The modules that it has whole.
    pub fn modules_to_save(&self) -> &[String] {
        match self {
            Self::LowRank(adapter) => &adapter.targets.modules_to_save,
            Self::Tuned(tuned) => &tuned.config.modules_to_save,
        }
    }

    /// Puts it on a model that was loaded with its [modules](Self::modules_to_save) to be trained.
    ///
    /// # Errors
    /// It does not fit the model.
    pub fn put_on(&self, model: &mut CausalLm) -> Result<()> {
        match self {
            Self::LowRank(adapter) => {
                model.add_lora(&adapter.targets, &adapter.config.settings(0))?;
                adapter.load_into(model.params())
            }
            Self::Tuned(tuned) => {
                model.add_tuned(&tuned.additions, 0)?;
                tuned.load_into(model)
            }
        }
    }

    /// Its updates for rows that name it.
    ///
    /// # Errors
    /// It is more than low-rank updates.
    pub fn update_set(&self) -> Result<UpdateSet> {
        match self {
            Self::LowRank(adapter) => adapter.update_set(),
            Self::Tuned(tuned) => tuned.update_set(),
        }
    }

    /// What merging writes into the files of a model. What a tuner changes is merged here, as a whole.
    ///
    /// # Errors
    /// The tuner cannot be merged, or the model's files do not fit.
    pub fn for_merging(self, base: &Directory) -> Result<Adapter> {
        match self {
            Self::LowRank(adapter) => Ok(*adapter),
            Self::Tuned(tuned) => tuned.merged(base),
        }
    }
}

impl TunedAdapter {
    fn open(dir: &Path, model: &ModelConfig, config: TunedConfig) -> Result<Self> {
        let tuner = make(&Spec {
            name: config.name.clone(),
            options: config.options.clone(),
        })?;
        let targets = Targets {
            linears: config.modules.clone(),
            modules_to_save: config.modules_to_save.clone(),
            ..Targets::default()
        };
        let additions = additions(&tuner, model, &targets)?;
        let added = additions.iter().flat_map(|addition| &addition.tensors);
        let mut expected: BTreeMap<String, Vec<usize>> = added
            .map(|(tensor, _)| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        for spec in model.tensors().iter() {
            if config
                .modules_to_save
                .iter()
                .any(|module| module == spec.module())
            {
                expected.insert(format!("{PREFIX}{}", spec.name), spec.shape.clone());
            }
        }
        Ok(Self {
            tensors: tuned_tensors(dir, &expected)?,
            dir: dir.to_owned(),
            model: model.clone(),
            config,
            additions,
            tuner,
        })
    }

    /// Sets the parameters of a model that carries its additions.
    ///
    /// # Errors
    /// The model trains something else.
    pub fn load_into(&self, model: &CausalLm) -> Result<()> {
        for param in model.params() {
            let value = self.tensors.get(param.name());
            let value = value.with_context(|| {
                format!(
                    "{}: has no tensor {}, which the model trains",
                    self.dir.display(),
                    param.name()
                )
            })?;
            param.set(value)?;
        }
        Ok(())
    }

    /// What is written beside what is trained on from it.
    ///
    /// # Errors
    /// The tuner's own.
    pub fn settings(&self) -> Result<TunedConfig> {
        let (tuner, list) = (&self.tuner, self.model.tensors());
        let mut modules = self.config.modules.iter();
        Ok(TunedConfig {
            // PEFT adds nothing to blocks.
            peft: match modules.any(|module| list.block(module).is_some()) {
                true => Options::new(),
                false => tuner.context("peft_config", tuner.component.peft_config())?,
            },
            ..self.config.clone()
        })
    }

    /// Its updates for rows that name it.
    fn update_set(&self) -> Result<UpdateSet> {
        let updates = self.additions.iter().map(|addition| {
            let update = addition
                .low_rank
                .filter(|update| update.magnitude.is_none())?;
            let at = |place: usize| {
                self.tensors
                    .get(&addition.tensors.get(place)?.0.name)
                    .cloned()
            };
            let factors = Factors {
                a: at(update.a)?,
                b: at(update.b)?,
            };
            Some((addition.target.clone(), update.scale, factors))
        });
        match updates.collect::<Option<Vec<_>>>() {
            Some(updates) if self.config.modules_to_save.is_empty() => {
                UpdateSet::of_scaled(updates)
            }
            _ => bail!(
                "it was trained by the {}, which cannot share a batch with other adapters; it can answer alone, given by \
                 --adapters",
                self.tuner.label
            ),
        }
    }

    /// Its name in messages.
    pub fn label(&self) -> &str {
        &self.tuner.label
    }

    fn merged(&self, base: &Directory) -> Result<Adapter> {
        let mut merged = BTreeMap::new();
        for (key, tensor) in &self.tensors {
            let name = key.strip_prefix(PREFIX).unwrap_or(key);
            if self.model.tensors().get(name).is_some() {
                merged.insert(name.to_owned(), tensor.clone());
            }
        }
        for addition in &self.additions {
            let bound = Bound::of(&self.tuner, &self.model, &addition.target)?;
            let params = addition.tensors.iter().map(|(tensor, _)| {
                let value = self.tensors.get(&tensor.name).cloned();
                value.with_context(|| format!("{} was not read", tensor.name))
            });
            let mut params: Vec<Tensor> = params.collect::<Result<_>>()?;
            let name = format!("{}.weight", addition.target);
            let layer = bound.layer();
            let unmergeable = || {
                format!(
                    "{}: what the {} has trained cannot be merged into the weights: it computes what no weight of {} can; \
                     answer with --adapters, unmerged",
                    self.dir.display(),
                    self.tuner.label,
                    addition.target
                )
            };
            ensure!(layer.kind() == LayerKind::Linear, "{}", unmergeable());
            let weight = base.tensor(
                &name,
                &[layer.outputs(), layer.inputs()],
                DType::F32,
                &Device::Cpu,
            )?;
            let weight = match &addition.low_rank {
                Some(update) => {
                    let params = params.drain(..).zip(&addition.tensors);
                    let params =
                        params.map(|(value, (tensor, _))| Param::new(&*tensor.name, &value, true));
                    let params: Vec<_> = params.collect::<Result<_>>()?;
                    Some(update.lora(&params)?.merged_weight(&weight)?)
                }
                None => bound.merged_weight(&weight, &params)?,
            };
            let Some(weight) = weight else {
                bail!("{}", unmergeable());
            };
            merged.insert(name.clone(), stored_as(base, &name, weight)?);
            if layer.has_bias() && addition.low_rank.is_none() {
                let name = format!("{}.bias", addition.target);
                let bias = base.tensor(&name, &[layer.outputs()], DType::F32, &Device::Cpu)?;
                let bias = bound.merged_bias(&bias, &params)?;
                merged.insert(name.clone(), stored_as(base, &name, bias)?);
            }
        }
        whole_tensors(&self.dir, &self.model, merged)
    }
}

/// A merged tensor in the type of the file, so that it takes no more memory than there.
fn stored_as(base: &Directory, name: &str, tensor: Tensor) -> Result<Tensor> {
    let dtype = match base.stored(name)?.dtype() {
        Dtype::BF16 => DType::BF16,
        _ => DType::F32,
    };
    Ok(tensor.to_dtype(dtype)?)
}
