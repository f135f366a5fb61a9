//! What a run keeps where, so that it fits: the embedding, the tapes of layers, and how many experts are unpacked at a time.

use super::optimizer::Grouped;
use super::optimizer::footprint::{self, Trained};
use super::plan::{MemoryPlan, Shape};
use super::ranks::ON_THEIR_WAY;
use super::sampling::Sampling;
use super::steps::{RunLength, Steps};
use anyhow::Result;
use apus_base::lines::info;
use apus_components::config::{Offload, SftConfig, SkippedLayers, StepsOrShare};
use apus_components::registry;
use apus_model::adapter::Blueprint;
use apus_model::families::ModelConfig;
use apus_model::model::CausalLm;
use apus_model::nn::ExpertWeight;
use apus_sdk::{Kind, Need};
use std::cmp::Reverse;

/// Another instance of a run's optimizer, to find out how much memory its state will take.
pub struct Trial {
    /// The instance.
    pub optimizer: Grouped,
    /// The number of ranks that the state is spread over.
    pub ranks: usize,
}

/// What of the model matters for where things are kept.
pub struct Room<'a> {
    /// Its shape.
    pub config: &'a ModelConfig,
    /// Bytes of the embedding, if it can leave the device.
    pub embedding: Option<u64>,
    /// Bytes that are free beside the weights and what is trained, if that is known.
    pub free: Option<u64>,
    /// Whether experts are unpacked where they are used.
    pub packed: bool,
}

/// What is kept where.
#[derive(Debug, Clone, Copy)]
pub struct Fit {
    /// What the memory plan depends on.
    pub shape: Shape,
    /// Bytes of the embedding, if it goes to host memory.
    pub offloaded: Option<u64>,
    /// Layers that keep their tape because they fit, if that was asked for.
    pub auto_layers: Option<usize>,
}

/// Decides what is kept where, and moves the embedding if it has to go. Returns what the memory plan depends on.
/// `lengths` are those of the largest micro-batch.
///
/// # Errors
/// An embedding that is trained and asked to leave the device.
pub fn fit(
    config: &SftConfig,
    trial: Trial,
    model: &mut CausalLm,
    lengths: &[usize],
) -> Result<Shape> {
    let room = Room {
        config: model.config(),
        embedding: model.movable_embedding(),
        free: apus_model::device::usage::free(model.device()),
        packed: packed(model),
    };
    let Fit {
        mut shape,
        offloaded,
        auto_layers,
    } = decide(
        config,
        &room,
        shape(config, model, trial, lengths.iter().sum()),
    );
    if offloaded.is_some() || config.offload_embedding == Offload::True {
        model.offload_embedding()?;
        shape.weight_bytes = model.weight_bytes();
    }
    if let Some(at_once) = shape.experts_at_once {
        model.unpack_at_once(Some(at_once as usize));
        info!("experts: {at_once} are unpacked at a time, since memory is short");
    }
    if let Some(bytes) = model.decoder().embedding.offloaded_bytes() {
        let size = apus_base::memory::gib(bytes);
        info!("offload_embedding: {size} are in host memory, rows are sent as they are looked up");
    }
    if let Some(kept) = auto_layers {
        let layers = model.decoder().layers.len();
        info!("gradient_checkpointing_skip_layers auto: {kept} of {layers} layers");
    }
    Ok(shape)
}

/// The same for a model that is not loaded: `shape` says what it will take.
pub fn decide(config: &SftConfig, room: &Room, mut shape: Shape) -> Fit {
    let wanted = kept_layers(config, room.config.architecture.layers.len());
    shape.kept_layers = wanted.unwrap_or(0) as u64;
    let fits = |free| MemoryPlan::fits(room.config, &shape, free);
    let offload = match config.offload_embedding {
        Offload::True => true,
        Offload::False => false,
        Offload::Auto => !room.free.is_none_or(fits),
    };
    let offloaded = room.embedding.filter(|_| offload);
    let moved = offloaded.unwrap_or(0);
    shape.weight_bytes -= moved;
    let fits = |free| MemoryPlan::fits(room.config, &shape, free + moved);
    if room.packed && !room.free.is_none_or(fits) {
        shape.experts_at_once = experts_at_once(room.config, shape.compute_bytes);
    }
    let auto_layers = match wanted {
        Some(_) => None,
        None => {
            let free = room.free.unwrap_or(0) + moved;
            Some(MemoryPlan::layers_that_fit(room.config, &shape, free))
        }
    };
    if let Some(kept) = auto_layers {
        shape.kept_layers = kept as u64;
    }
    Fit {
        shape,
        offloaded,
        auto_layers,
    }
}

/// The most bytes of experts' matrices that are unpacked at a time where memory is short: enough rows and columns to keep a card
/// busy, and less than a chunk of logits with its gradient.
const UNPACKED: u64 = 512 << 20;

/// As many experts as have at most so many bytes, if that is not all of them.
fn experts_at_once(config: &ModelConfig, compute_bytes: u64) -> Option<u64> {
    let list = config.tensors();
    let largest = list.expert_matrices().map(|(_, _, spec)| {
        let experts = spec.matrices() as u64;
        (
            spec.elements() as u64 * compute_bytes / experts.max(1),
            experts,
        )
    });
    let (bytes, experts) = largest.max()?;
    let at_once = (UNPACKED / bytes.max(1)).clamp(1, experts);
    (at_once < experts).then_some(at_once)
}

fn packed(model: &CausalLm) -> bool {
    let layers = model.decoder().layers.iter();
    let mut experts = layers.flat_map(|layer| layer.mlp.experts());
    experts.any(|linear| matches!(linear.matrix, ExpertWeight::Packed { .. }))
}

/// Layers that keep their tape; `None` for as many as fit.
fn kept_layers(config: &SftConfig, layers: usize) -> Option<usize> {
    match config.gradient_checkpointing_skip_layers {
        _ if !config.gradient_checkpointing => Some(layers),
        SkippedLayers::Auto => None,
        SkippedLayers::Count(kept) => Some(kept.min(layers)),
    }
}

/// What the memory plan depends on, no layer keeping its tape.
fn shape(config: &SftConfig, model: &CausalLm, trial: Trial, tokens: usize) -> Shape {
    let trainable: usize = model.params().iter().map(|p| p.value().elem_count()).sum();
    // What a tuner leaves as it begins has neither gradient nor state.
    let learning = model.params().iter().filter(|param| !param.is_fixed());
    let trained = learning.map(|param| Trained {
        name: param.name().to_owned(),
        shape: param.value().dims().to_vec(),
    });
    let trained: Vec<Trained> = trained.collect();
    let numbers = trained
        .iter()
        .map(|one| one.shape.iter().product::<usize>());
    let learning = numbers.sum::<usize>() as u64;
    let layers = &model.decoder().layers;
    let experts = || layers.iter().flat_map(|layer| layer.mlp.experts());
    Shape {
        tokens: tokens as u64,
        compute_bytes: model.dtype().size_in_bytes() as u64,
        weight_bytes: model.weight_bytes(),
        trainable: trainable as u64,
        gradient_bytes: gradient_bytes(config, learning, trial.ranks),
        optimizer_bytes: optimizer_bytes(trial, &trained, learning),
        kept_layers: 0,
        experts_made_anew: experts().any(|linear| match &linear.matrix {
            ExpertWeight::Packed { .. } => true,
            ExpertWeight::Dense(weight) => weight.stored() != model.dtype(),
        }),
        experts_at_once: None,
        gathered_bytes: model.whole_bytes(),
        expert_adapters: experts().any(|linear| linear.lora.is_some()),
        tuner_tape_bytes: layers
            .iter()
            .map(|layer| layer.tuner_tape_bytes(tokens as u64))
            .max()
            .unwrap_or(0),
    }
}

/// [`shape`] of a model that is not loaded.
pub fn planned_shape(
    config: &SftConfig,
    trial: Trial,
    blueprint: &Blueprint,
    lengths: &[usize],
) -> Shape {
    let trained = blueprint.trained_tensors().map(|(name, shape)| Trained {
        name: name.clone(),
        shape: shape.clone(),
    });
    let trained: Vec<Trained> = trained.collect();
    let tokens = lengths.iter().sum::<usize>() as u64;
    Shape {
        tokens,
        compute_bytes: blueprint.compute.size_in_bytes() as u64,
        weight_bytes: blueprint.weight_bytes(),
        trainable: blueprint.trainable(),
        gradient_bytes: gradient_bytes(config, blueprint.learning(), trial.ranks),
        optimizer_bytes: optimizer_bytes(trial, &trained, blueprint.learning()),
        kept_layers: 0,
        experts_made_anew: blueprint.experts_made_anew(),
        experts_at_once: None,
        gathered_bytes: blueprint.whole_bytes(),
        expert_adapters: blueprint.expert_adapters(),
        tuner_tape_bytes: blueprint.tuner_tape_bytes(tokens),
    }
}

/// Whether a callback may change how many micro-batches a step has.
fn may_change_accumulation(config: &SftConfig) -> bool {
    let mut callbacks = config.callbacks.iter();
    callbacks.any(|callback| registry::declares(Kind::Callback, &callback.name, Need::Accumulation))
}

/// The bytes of gradients of so many numbers. A rank that owns a part of them keeps that part, beside what is on its way to
/// others; over several micro-batches it adds up all of them first.
fn gradient_bytes(config: &SftConfig, numbers: u64, ranks: usize) -> u64 {
    let (all, ranks) = (numbers.saturating_mul(4), ranks.max(1) as u64);
    match config.accumulation() {
        1 if !may_change_accumulation(config) => {
            all.min(all.div_ceil(ranks).saturating_add(ON_THEIR_WAY))
        }
        _ => all,
    }
}

/// The bytes that an optimizer keeps for these parameters on a rank. Where it cannot be asked, they are taken to be two f32 tensors
/// for each.
fn optimizer_bytes(trial: Trial, trained: &[Trained], numbers: u64) -> u64 {
    let label = trial.optimizer.optimizer.label.clone();
    let bytes = footprint::bytes(trial.optimizer, trained).unwrap_or_else(|error| {
        info!(
            "note: how large the state of {label} will be is not known from a step over small parameters, so the memory \
             plan takes 8 bytes for each trained number: {error:#}"
        );
        numbers.saturating_mul(8)
    });
    bytes.div_ceil(trial.ranks.max(1) as u64)
}

/// Tokens of the examples of the largest micro-batch that the run will see, in the order of this sampler, which may be known
/// beforehand: otherwise the longest examples are taken to meet. A step of several ranks has as many times the micro-batches.
///
/// # Errors
/// No example, or no step; the sampler failed.
pub fn largest_micro_batch(
    config: &SftConfig,
    sampling: &mut Sampling,
    ranks: usize,
) -> Result<Vec<usize>> {
    let size = config.per_device_train_batch_size;
    let accumulation = config.accumulation() * ranks;
    let steps_are_given = config.max_steps > 0;
    let steps = Steps::new(&RunLength {
        examples: sampling.epoch_length(),
        batch_size: size,
        accumulation,
        epochs: config.num_train_epochs,
        max_steps: u64::try_from(config.max_steps)
            .ok()
            .filter(|&steps| steps > 0),
        drop_last: config.dataloader_drop_last,
        warmup: StepsOrShare::Steps(0),
    })?;
    let lengths: Vec<usize> = sampling.tokens().iter().map(|&n| n as usize).collect();
    let longest = lengths.iter().max().copied().unwrap_or(0);
    if !sampling.is_known_beforehand() {
        return Ok(vec![longest; size]);
    }
    if steps_are_given && may_change_accumulation(config) {
        // Nobody knows how far in the data these steps come: the longest examples might meet.
        let mut longest = lengths;
        longest.sort_unstable_by_key(|&length| Reverse(length));
        longest.truncate(size);
        return Ok(longest);
    }
    let mut largest = Vec::new();
    for epoch in 0..=steps.epoch_of(steps.total - 1) {
        let first = (epoch * steps.per_epoch) as u64;
        let left = (steps.total - first) as usize * steps.accumulation;
        let order = sampling.order(epoch)?;
        let batches = order.chunks(size).take(steps.batches_per_epoch.min(left));
        for batch in batches {
            let batch = || batch.iter().map(|&i| lengths[i]);
            if batch().sum::<usize>() > largest.iter().sum() {
                largest = batch().collect();
            }
        }
        if largest.iter().sum::<usize>() == size * longest {
            break;
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spread_over_ranks_takes_a_part_on_each() {
        use apus_components::registry::{self, Spec};
        use apus_plugins as _;
        let config = |steps| SftConfig {
            gradient_accumulation_steps: Some(steps),
            ..SftConfig::default()
        };
        let numbers = 3u64 << 30;
        let gradients = |steps, ranks| gradient_bytes(&config(steps), numbers, ranks);
        assert_eq!(
            (gradients(1, 1), gradients(4, 4)),
            (4 * numbers, 4 * numbers)
        );
        assert_eq!(gradients(1, 4), numbers + ON_THEIR_WAY);
        assert_eq!(gradient_bytes(&config(1), 1000, 4), 4000);
        let trained = [Trained {
            name: "model.norm.weight".to_owned(),
            shape: vec![1 << 20],
        }];
        let state = |ranks| {
            let optimizer = registry::named::<dyn apus_sdk::Optimizer>(&Spec::named("adamw"));
            let optimizer = optimizer.unwrap().into();
            optimizer_bytes(Trial { optimizer, ranks }, &trained, 1 << 20)
        };
        assert_eq!((state(1), state(4)), (8 << 20, 2 << 20));
    }

    #[test]
    fn the_largest_micro_batch_of_the_steps_that_run() {
        use crate::train::sampling::RowTable;
        use apus_components::registry;
        use apus_data::chat::Encoded;
        use apus_plugins as _;
        use apus_sdk::Sampler;
        let lengths = [5, 1, 2, 9, 3, 1];
        let config = |shuffle: bool, max_steps: i64| SftConfig {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: Some(1),
            train_dataloader_shuffle: shuffle,
            max_steps,
            num_train_epochs: 50.0,
            ..SftConfig::default()
        };
        let rows = lengths.map(|length| Encoded {
            input_ids: vec![1; length],
            ..Encoded::default()
        });
        let of_ranks = |shuffle, steps, ranks| {
            let config = config(shuffle, steps);
            let sampler = registry::named::<dyn Sampler>(&config.sampler_spec()).unwrap();
            let table = RowTable::new(&rows, None, (&[], Vec::new()));
            let sizes = (2, 2 * ranks);
            let mut sampling = Sampling::new(sampler, table, config.data_seed, sizes).unwrap();
            largest_micro_batch(&config, &mut sampling, ranks).unwrap()
        };
        let largest = |shuffle, steps| of_ranks(shuffle, steps, 1).iter().sum::<usize>();
        assert_eq!(largest(false, 1), 6);
        assert_eq!(largest(false, 2), 11);
        assert_eq!(largest(false, -1), 11);
        // Among many orders the two longest meet.
        assert_eq!(largest(true, -1), 14);
        // Two ranks make two micro-batches in their first step.
        assert_eq!(of_ranks(false, 1, 2), [2, 9]);
    }
}
