//! An adapter in a folder, whoever trained it: low-rank updates as PEFT writes them, or what a tuner has added.

use super::bound::{Bound, additions};
use super::{MadeTuner, make};
use anyhow::{Context, Result, ensure};
use apus_components::registry::Spec;
use apus_model::adapter::{
    Adapter, ExpertMerge, TunedConfig, expert_merged, tuned_tensors, whole_tensors,
};
use apus_model::families::ModelConfig;
use apus_model::model::updates::PREFIX;
use apus_model::model::{Addition, CausalLm, LowRank, Targets, UpdateSet};
use apus_model::nn::Param;
use apus_model::tensors::{ExpertMatrix, Role, TensorSpec};
use apus_model::weights::{Directory, WeightSource};
use apus_sdk::{LayerKind, Options};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    pub(super) dir: PathBuf,
    pub(super) model: ModelConfig,
    pub(super) tuner: MadeTuner,
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
                model.add_tuned(&tuned.additions, None)?;
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
        let list = model.tensors();
        let experts = config.parameters.iter().map(|name| {
            let spec = list.get(name);
            let found = spec.and_then(|spec| Some((spec.layer?, spec.expert_matrix()?)));
            found.with_context(|| format!("the model has no parameter of experts {name}"))
        });
        let targets = Targets {
            linears: config.modules.clone(),
            experts: experts.collect::<Result<_>>()?,
            modules_to_save: config.modules_to_save.clone(),
            ..Targets::default()
        };
        let additions = additions(&tuner, model, &targets)?;
        let added = additions.iter().flat_map(|addition| &addition.tensors);
        let mut expected: BTreeMap<String, Vec<usize>> = added
            .map(|(tensor, _)| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        for spec in list.iter() {
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
            // PEFT adds nothing to blocks, and to parameters of experts low-rank updates alone.
            peft: match !self.config.parameters.is_empty()
                || modules.any(|module| list.block(module).is_some())
            {
                true => Options::new(),
                false => tuner.context("peft_config", tuner.component.peft_config())?,
            },
            ..self.config.clone()
        })
    }

    /// The parameters of an addition, in the tuner's order.
    pub(super) fn params_of(&self, addition: &Addition) -> Result<Vec<Tensor>> {
        let params = addition.tensors.iter().map(|(tensor, _)| {
            let value = self.tensors.get(&tensor.name).cloned();
            value.with_context(|| format!("{} was not read", tensor.name))
        });
        params.collect()
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
        let mut experts = BTreeMap::new();
        for addition in &self.additions {
            let layer = self.merged_layer(addition)?;
            match addition.experts {
                None => self.merge_linear(base, &layer, &mut merged)?,
                Some(at) => {
                    self.merge_biases(base, at, &layer, &mut merged)?;
                    let merge: ExpertMerge = Arc::new(move |expert, own| {
                        let weight = layer.weight(Some(expert), own)?;
                        weight.context("a tuner has merged one expert and does not another")
                    });
                    experts.insert(addition.target.clone(), merge);
                }
            }
        }
        whole_tensors(&self.dir, &self.model, merged, experts)
    }

    /// What a tuner has made of a layer that it can be merged into.
    fn merged_layer(&self, addition: &Addition) -> Result<MergedLayer> {
        let list = self.model.tensors();
        let experts = list.get(&addition.target).map(TensorSpec::matrices);
        let layer = MergedLayer {
            bound: Bound::of_addition(&self.tuner, &self.model, addition)?,
            low_rank: addition.low_rank,
            experts: experts.filter(|_| addition.experts.is_some()),
            params: self.params_of(addition)?,
        };
        let info = layer.bound.layer();
        let is_block = info.kind() != LayerKind::Linear;
        let can_be = !is_block && {
            // Where nothing is known of the weight yet, as of experts, which are merged one by one.
            let shape = (info.outputs(), info.inputs());
            let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            layer.weight(addition.experts.map(|_| 0), &zeros)?.is_some()
        };
        ensure!(
            can_be,
            "{}: what the {} has trained cannot be merged into the weights: it computes what no weight of {} can; answer with \
             --adapters, unmerged",
            self.dir.display(),
            self.tuner.label,
            addition.target
        );
        Ok(layer)
    }

    fn merge_linear(
        &self,
        base: &Directory,
        layer: &MergedLayer,
        merged: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let info = layer.bound.layer();
        let part = |part: &str, shape: &[usize]| {
            let name = format!("{}.{part}", info.name());
            let own = base.tensor(&name, shape, DType::F32, &Device::Cpu)?;
            Ok::<_, anyhow::Error>((name, own))
        };
        let (name, own) = part("weight", &[info.outputs(), info.inputs()])?;
        if let Some(weight) = layer.weight(None, &own)? {
            let weight = stored_as(base, &name, weight)?;
            merged.insert(name, weight);
        }
        if layer.changes_bias() {
            let (name, own) = part("bias", &[info.outputs()])?;
            let bias = stored_as(base, &name, layer.bias(None, &own)?)?;
            merged.insert(name, bias);
        }
        Ok(())
    }

    /// The biases of all experts of a matrix.
    fn merge_biases(
        &self,
        base: &Directory,
        (layer, matrix): (usize, ExpertMatrix),
        of_tuner: &MergedLayer,
        merged: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let list = self.model.tensors();
        let Some(spec) = list.bias(Some(layer), Role::Experts(matrix)) else {
            return Ok(());
        };
        if of_tuner.changes_bias() {
            let own = base.tensor(&spec.name, &spec.shape, DType::F32, &Device::Cpu)?;
            let each = (0..spec.shape[0]).map(|at| of_tuner.bias(Some(at), &own.get(at)?));
            let all = Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 0)?;
            merged.insert(spec.name.clone(), stored_as(base, &spec.name, all)?);
        }
        Ok(())
    }
}

/// What a tuner has made of a layer.
struct MergedLayer {
    bound: Bound,
    low_rank: Option<LowRank>,
    /// The number of experts, of whose matrices it is the tuner.
    experts: Option<usize>,
    /// The parameters, in the tuner's order; of experts those of all.
    params: Vec<Tensor>,
}

impl MergedLayer {
    /// The parameters of an expert, or of the layer.
    fn params(&self, expert: Option<usize>) -> Result<Vec<Tensor>> {
        match expert {
            None => Ok(self.params.clone()),
            Some(at) => {
                let params = self.params.iter().map(|param| Ok(param.get(at)?));
                params.collect()
            }
        }
    }

    /// The merged weight of the layer or of an expert, `[O, I]`, f32; `None` if there is none.
    fn weight(&self, expert: Option<usize>, own: &Tensor) -> Result<Option<Tensor>> {
        match (&self.low_rank, expert) {
            (None, _) => self.bound.merged_weight(own, &self.params(expert)?),
            (Some(update), Some(at)) => {
                let pair = (&self.params[update.a], &self.params[update.b]);
                let experts = self.experts.unwrap_or(1);
                expert_merged(own, pair, update.scale, (at, experts)).map(Some)
            }
            (Some(update), None) => {
                let params = self.params.iter();
                let params = params.map(|value| Param::new("", value, true));
                let params: Vec<_> = params.collect::<Result<_>>()?;
                update.lora(&params)?.merged_weight(own).map(Some)
            }
        }
    }

    /// Whether the bias is asked for.
    fn changes_bias(&self) -> bool {
        self.low_rank.is_none() && self.bound.layer().has_bias()
    }

    fn bias(&self, expert: Option<usize>, own: &Tensor) -> Result<Tensor> {
        self.bound.merged_bias(own, &self.params(expert)?)
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
