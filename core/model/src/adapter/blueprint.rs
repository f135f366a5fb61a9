//! All tensors that a model with its adapter will have, from its shape alone, so that memory can be planned before a weight is read.

use crate::families::ModelConfig;
use crate::model::updates::{self, Update, UpdateTensor};
use crate::model::{Addition, ExpertsDtype, LoadOptions, LoraSettings, Targets, Training};
use crate::nn::most_at_a_time;
use crate::tensors::{FileForm, Role, TensorSpec};
use crate::weights::WeightSource;
use anyhow::Result;
use candle_core::DType;
use std::collections::{BTreeMap, BTreeSet};

/// All tensors of a model that is not loaded.
pub struct Blueprint {
    /// The tensors of the model itself.
    pub weights: Vec<PlannedTensor>,
    /// The low-rank updates.
    pub updates: Vec<Update>,
    /// What a tuner adds.
    pub additions: Vec<Addition>,
    /// Names of added tensors that stay as they begin.
    pub frozen: BTreeSet<String>,
    /// The rank of the updates; the greatest, if they differ.
    pub rank: usize,
    /// The compute type.
    pub compute: DType,
    /// The number of ranks that the large frozen matrices are spread over, if they are.
    pub ranks: Option<usize>,
}

/// A tensor of the model.
pub struct PlannedTensor {
    /// What it is.
    pub spec: TensorSpec,
    /// Whether it is stored in MXFP4.
    pub packed: bool,
    /// Whether it is trained, in f32.
    pub trained: bool,
}

impl Blueprint {
    /// Lists the tensors of a model with updates, as it would be loaded from this source.
    ///
    /// # Errors
    /// The model does not have a target.
    pub fn new(
        config: &ModelConfig,
        source: &dyn WeightSource,
        options: &LoadOptions,
        updates: Option<(&Targets, &LoraSettings)>,
    ) -> Result<Self> {
        let list = config.tensors();
        let rank = updates.map_or(0, |(targets, settings)| {
            let own = targets.own.values().map(|numbers| numbers.rank);
            own.fold(settings.rank, usize::max)
        });
        let weights = list.iter().map(|spec| {
            let trained = match &options.training {
                Training::Full => true,
                Training::Adapters(modules) => modules.iter().any(|m| m == spec.module()),
            };
            let packed = options.experts == ExpertsDtype::Mxfp4 && source.is_packed(spec);
            PlannedTensor {
                spec: spec.clone(),
                packed: packed && !trained,
                trained,
            }
        });
        let updates = match updates {
            Some((targets, settings)) => updates::updates(&list, targets, settings)?,
            None => Vec::new(),
        };
        Ok(Self {
            weights: weights.collect(),
            rank,
            updates,
            additions: Vec::new(),
            frozen: BTreeSet::new(),
            compute: options.dtype,
            ranks: options.sharding.as_ref().map(|sharding| sharding.ranks),
        })
    }

    /// Checks without reading that the source has every tensor in its shape.
    ///
    /// # Errors
    /// A tensor is missing or does not fit; the error names it.
    pub fn check(&self, source: &dyn WeightSource) -> Result<()> {
        for PlannedTensor { spec, .. } in &self.weights {
            for tensor in spec.in_file(source.is_packed(spec)) {
                let dtype = match tensor.form {
                    FileForm::Plain => self.compute,
                    FileForm::Blocks | FileForm::Scales => DType::U8,
                };
                source.check(&tensor.name, &tensor.shape, dtype)?;
            }
        }
        Ok(())
    }

    /// The bytes of all weights that are not trained; where they are spread over ranks, those of a rank.
    pub fn weight_bytes(&self) -> u64 {
        self.frozen()
            .map(|planned| match self.ranks {
                Some(ranks) if planned.spec.is_shardable() => {
                    self.bytes(planned).div_ceil(ranks.max(1) as u64)
                }
                _ => self.bytes(planned),
            })
            .sum()
    }

    /// The bytes of all weights that are not trained, of all ranks together.
    pub fn frozen_bytes(&self) -> u64 {
        self.frozen().map(|planned| self.bytes(planned)).sum()
    }

    fn frozen(&self) -> impl Iterator<Item = &PlannedTensor> {
        self.weights.iter().filter(|planned| !planned.trained)
    }

    /// The most bytes of layers and head that are gathered at a time, where they are spread over ranks: two layers, or the last
    /// one and the head.
    pub fn whole_bytes(&self) -> u64 {
        if self.ranks.is_none() {
            return 0;
        }
        let mut units: BTreeMap<usize, u64> = BTreeMap::new();
        for planned in self.frozen().filter(|planned| planned.spec.is_shardable()) {
            // The head follows the layers.
            let unit = planned.spec.layer.unwrap_or(usize::MAX);
            *units.entry(unit).or_default() += self.bytes(planned);
        }
        most_at_a_time(&units.into_values().collect::<Vec<_>>())
    }

    /// The bytes of the embedding, unless it is trained or is the output head, too.
    pub fn movable_embedding(&self) -> Option<u64> {
        let find = |role| {
            self.weights
                .iter()
                .find(|planned| planned.spec.role == role)
        };
        let embedding = find(Role::Embedding)?;
        let stays = embedding.trained || find(Role::Head).is_none();
        (!stays).then(|| self.bytes(embedding))
    }

    /// The number of parameters that are kept beside the frozen weights, in f32: those that are trained, and those that a tuner adds
    /// and leaves as they begin.
    pub fn trainable(&self) -> u64 {
        let trained = self.weights.iter().filter(|planned| planned.trained);
        let trained: u64 = trained.map(|planned| planned.spec.elements() as u64).sum();
        let updates = self.updates.iter().map(Update::elements);
        let additions = self.additions.iter().map(Addition::elements);
        updates.chain(additions).fold(trained, u64::saturating_add)
    }

    /// The bytes that tuners add to the tape of a layer of so many tokens; the greatest of all layers.
    pub fn tuner_tape_bytes(&self, tokens: u64) -> u64 {
        let mut of_layers: BTreeMap<Option<usize>, u64> = BTreeMap::new();
        for addition in &self.additions {
            let layer = addition.experts.map(|(layer, _)| layer).or_else(|| {
                let inside = format!("{}.", addition.target);
                let mut weights = self.weights.iter();
                let first = weights.find(|planned| planned.spec.name.starts_with(&inside));
                first.and_then(|planned| planned.spec.layer)
            });
            *of_layers.entry(layer).or_default() += addition.tape_bytes(tokens);
        }
        of_layers.into_values().max().unwrap_or(0)
    }

    /// The number of parameters that are trained.
    pub fn learning(&self) -> u64 {
        let sides = |shape: &Vec<usize>| shape.iter().map(|&side| side as u64).product::<u64>();
        self.trained_tensors().map(|(_, shape)| sides(shape)).sum()
    }

    /// Names and shapes of all tensors that are trained.
    pub fn trained_tensors(&self) -> impl Iterator<Item = (&String, &Vec<usize>)> {
        let weights = self.weights.iter().filter(|planned| planned.trained);
        let weights = weights.map(|planned| (&planned.spec.name, &planned.spec.shape));
        let updates = self.updates.iter().flat_map(Update::tensors);
        let added = self.additions.iter().flat_map(|addition| &addition.tensors);
        let added = added.map(|(tensor, _)| tensor);
        let tensors = updates.chain(added);
        let tensors = tensors.map(|UpdateTensor { name, shape }| (name, shape));
        weights.chain(tensors.filter(|(name, _)| !self.frozen.contains(*name)))
    }

    /// Whether matrices of experts are unpacked or converted for each use.
    pub fn experts_made_anew(&self) -> bool {
        let matrices = self.weights.iter();
        matrices
            .filter(|planned| planned.spec.expert_matrix().is_some())
            .any(|planned| planned.packed || planned.trained && self.compute != DType::F32)
    }

    /// Whether experts are unpacked.
    pub fn experts_packed(&self) -> bool {
        self.weights.iter().any(|planned| planned.packed)
    }

    /// Whether experts carry updates.
    pub fn expert_adapters(&self) -> bool {
        let mut updates = self.updates.iter();
        let mut additions = self.additions.iter();
        updates.any(|update| update.experts.is_some())
            || additions.any(|addition| addition.experts.is_some())
    }

    fn bytes(&self, planned: &PlannedTensor) -> u64 {
        let elements = planned.spec.elements() as u64;
        match planned.packed {
            // A block of 32 elements takes 16 bytes, and its scale one byte.
            true => elements / 32 * 17,
            false => elements * self.compute.size_in_bytes() as u64,
        }
    }
}
