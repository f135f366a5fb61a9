//! `apus bench`: measures how fast training is on this machine, and which operations take the time.
//!
//! A measurement trains for a few steps on random tokens. The model and the steps are those of `apus sft`. Steps are first
//! timed and then profiled, so that profiling does not slow the timed ones. The limits of the device are measured in the
//! same process right after the steps, at the same clock rate. Several ranks make the steps together, each with as many
//! sequences as one process has; rank 0 reports. With `--generate` answers are timed in place of training, with `--ops` every
//! operation alone.

mod against;
mod communication;
pub mod count;
mod generate;
mod groups;
mod lengths;
mod limits;
mod ops;
mod report;
mod steps;
mod table;
mod traffic;

use crate::out_of_memory::{Phase, explain as explain_out_of_memory};
use crate::setup::{self, Chosen, MadeLater};
use crate::train::fit::{Trial, fit};
use crate::train::optimizer::alone::can_be_divided;
use crate::train::optimizer::groups::make as optimizer_of;
use crate::train::ranks::{self, Load, Loads, Ranks};
use crate::train::shard_base::{Planned, decide_base};
use crate::train::{args, parts};
use against::Earlier;
use anyhow::{Context, Result, ensure};
use apus_components::config::{
    BenchConfig, Resolved, SftConfig, ShardBase, TrainType, load_plugins, sharding, values,
};
use apus_components::registry;
use apus_model::adapter::ParameterTable;
use apus_model::model::CausalLm;
use apus_model::nn::ExpertWeight;
use apus_model::profile::{Profile, Recording};
use apus_sdk::{Loss, RunInfo, errln, out};
use apus_world::place::{Role, role};
use candle_core::Device;
use communication::Communication;
use count::Work;
use groups::Groups;
use report::{Figures, Setting};
use serde_json::Value;
use steps::{Data, Stepper};
use traffic::Traffic;

/// Steps that are profiled.
const PROFILED: usize = 2;

/// Runs the measurement of a configuration and prints the figures.
pub fn run(resolved: &Resolved<BenchConfig>) -> Result<()> {
    let config = &resolved.config;
    load_plugins(&config.plugins)?;
    apus_data::hub::prefer(config.use_hf);
    let earlier = config.against.as_deref();
    let earlier = earlier.map(|path| Earlier::read(path, config.ops));
    let earlier = earlier.transpose()?;
    let figures = match config.ops || config.generate {
        true => {
            ensure!(
                matches!(role()?, Role::Alone),
                "operations and answers are timed on one card; start it without NPROC_PER_NODE and without torchrun, mpirun or srun"
            );
            let device = apus_model::device::open(&config.device)?;
            let given = |flag: &str| resolved.given(flag);
            Some(match config.generate {
                true => generate::run(config, &device)
                    .map_err(|error| explain_out_of_memory(error, &device, &values(config)))?,
                false => ops::run(config, &device, &given)?,
            })
        }
        false => train(resolved)?,
    };
    // Rank 0 reports for all.
    let Some(figures) = figures else {
        return Ok(());
    };
    if let Some(path) = &config.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")
            .with_context(|| format!("{path}: cannot be written"))?;
    }
    if let Some(earlier) = earlier {
        out!("{}", earlier.beside(&figures));
    }
    Ok(())
}

/// Times training, with the other ranks if there are some; ranks other than 0 have no figures.
fn train(resolved: &Resolved<BenchConfig>) -> Result<Option<Value>> {
    let config = &resolved.config;
    let sft = config.sft()?;
    check(resolved, &sft)?;
    let explained =
        |error, device: &Device| explain_out_of_memory(error, device, &args::args(&sft));
    let Some(place) = ranks::place(sft.shard_base == Some(ShardBase::True))? else {
        let device = apus_model::device::open(&config.device)?;
        let figures = measure(config, &sft, &device, None);
        return figures.map_err(|error| explained(error, &device));
    };
    let device = ranks::device(&sft, &place)?;
    let ranks = ranks::join(&sft, &place, &device)?;
    ranks.agree(&must_agree(config)?)?;
    match measure(config, &sft, &device, Some(&ranks)) {
        Ok(figures) => {
            ranks.finish()?;
            Ok(figures)
        }
        Err(error) => {
            let error = explained(error, &device);
            ranks.fail(&error);
            Err(error)
        }
    }
}

/// Asks the components of the steps.
fn check(resolved: &Resolved<BenchConfig>, sft: &SftConfig) -> Result<()> {
    let (rank, world_size) = ranks::rank_and_size()?;
    let loss = registry::named::<dyn Loss>(&sft.loss_type)?;
    let (optimizer, _) = parts::optimizer(sft, &|_| None)?;
    let optimizer = optimizer_of(&optimizer, sft.base_lr())?;
    let mut later = MadeLater::default();
    if let TrainType::Tuner(spec) = &sft.train_type {
        later.add_tuner(spec)?;
    }
    let mut chosen = Chosen::default();
    chosen.add(&["loss_type"], [&loss]);
    chosen.add(&["optimizer"], optimizer.all());
    later.add_to(&mut chosen);
    let args = args::args(sft);
    let info = RunInfo {
        config: args.clone(),
        rank,
        world_size,
        ..RunInfo::default()
    };
    chosen.check(setup::setup_of(args).with_info(info), resolved)
}

/// What all ranks must have in common: the configuration, but for the device and the files of rank 0.
fn must_agree(config: &BenchConfig) -> Result<Vec<(String, String)>> {
    let Value::Object(values) = serde_json::to_value(config)? else {
        return Ok(Vec::new());
    };
    let own = |name: &String| ["device", "json", "against"].contains(&name.as_str());
    let values = values.into_iter().filter(|(name, _)| !own(name));
    Ok(values
        .map(|(name, value)| (name, value.to_string()))
        .collect())
}

fn measure(
    config: &BenchConfig,
    sft: &SftConfig,
    device: &Device,
    ranks: Option<&Ranks>,
) -> Result<Option<Value>> {
    let leads = ranks.is_none_or(|ranks| ranks.rank() == 0);
    if let Some(ranks) = ranks {
        ranks.enter("loading the model", true);
    }
    let lengths = config.seq;
    let place = setup::find_model(&sft.model, sft.seed)?;
    let (optimizer, _) = parts::optimizer(sft, &|_| None)?;
    let batch = vec![lengths.longest(); config.batch];
    let (mut base, mut divided) = (None, false);
    let trial = |ranks: Option<usize>| -> Result<Trial> {
        Ok(Trial {
            optimizer: optimizer_of(&optimizer, sft.base_lr())?,
            ranks: ranks.unwrap_or(1),
        })
    };
    if let Some(ranks) = ranks {
        let free = ranks.least_free(device)?;
        // What is free is known at rank 0, which decides for all.
        let mut decided = (false, false);
        if leads {
            decided.1 = sharding(sft, ranks.size())?.optimizer
                && can_be_divided(&|| optimizer_of(&optimizer, sft.base_lr()))?;
            let (shard_base, line) = decide_base(sft, ranks.size(), |over| {
                let trial = trial(decided.1.then(|| ranks.size()))?;
                Planned::new(sft, (&place, device), trial, (&batch, free), over)
            })?;
            if let Some(line) = line {
                errln!("{line}");
            }
            decided.0 = shard_base;
        }
        let (shard_base, shard_optimizer) = ranks.broadcast(decided)?;
        if shard_base {
            base = Some(ranks.sharding()?);
        }
        divided = shard_optimizer;
    }
    let mut ready = parts::model(sft, &place, device, base)?;
    let over = ranks.filter(|_| divided).map(Ranks::size);
    let shape = fit(sft, trial(over)?, &mut ready.model, &batch)?;
    let (model, kept) = (&ready.model, shape.kept_layers as usize);
    let table = ParameterTable::of(model);
    if leads {
        errln!("{table}");
    }

    let data = Data {
        batch: config.batch,
        lengths,
        share: config.trained_share,
        seed: sft.seed,
    };
    let mut stepper = Stepper::new(sft, model, kept, data, ranks, divided)?;
    let carried = || ranks.map_or(0, Ranks::carried);
    let (mut steps, before) = (Vec::new(), carried());
    for at in 0..config.steps {
        if let Some(ranks) = ranks {
            ranks.enter(&format!("step {}", at + 1), false);
        }
        let step = stepper.step().with_context(|| Phase::Step(at as u64 + 1))?;
        if leads {
            errln!(
                "step {}: {:.3} s, {:.0} tokens/s, loss {:.4}",
                at + 1,
                step.seconds,
                step.tokens() as f64 / step.seconds,
                step.loss
            );
        }
        steps.push(step);
    }
    let bytes = (carried() - before) / config.steps.max(1) as u64;
    let peak = peak(device, ranks)?;
    let (profiled, profile) = profiled(&mut stepper, device)?;
    let communication = ranks
        .map(|ranks| Communication::measure(ranks, model, bytes))
        .transpose()?;
    if !leads {
        return Ok(None);
    }
    let limits = limits::measure(device)?;

    let trained = count::trained(model);
    let work = |lengths: &[usize], targets: usize| {
        let work = Work {
            config: model.config(),
            trained: &trained,
            head_trained: model.head().lm_head.weight.param().is_some(),
            kept,
            lengths,
            targets,
        };
        let width = model.dtype().size_in_bytes() as u64;
        (
            work.count(),
            Traffic::new(&work, width, experts(model) == "mxfp4"),
        )
    };
    let counted: Vec<_> = profiled
        .iter()
        .map(|step| work(&step.own.0, step.own.1))
        .collect();
    let figures = Figures {
        setting: Setting {
            machine: limits::machine(device),
            config,
            experts: experts(model),
            layers: model.decoder().layers.len(),
            kept,
            parameters: table.parameters(),
            trained: table.trainable(),
        },
        counts: steps
            .iter()
            .map(|step| work(&step.lengths, step.targets).0)
            .collect(),
        steps,
        peak,
        communication,
        limits,
        groups: Groups::new(&profile, &counted),
    };
    out!("{figures}");
    Ok(Some(figures.json()))
}

/// The most memory that was in use so far, with the rank of the fullest where there are several.
fn peak(device: &Device, ranks: Option<&Ranks>) -> Result<Option<(usize, u64)>> {
    let own = apus_model::device::usage::peak(device);
    let Some(ranks) = ranks else {
        return Ok(own.map(|bytes| (0, bytes)));
    };
    let load = Load {
        peak: own,
        ..Load::default()
    };
    Ok(Loads::of(&ranks.gather(&load)?).and_then(|loads| loads.fullest))
}

/// Makes a few more steps under the profile.
fn profiled(stepper: &mut Stepper, device: &Device) -> Result<(Vec<steps::TimedStep>, Profile)> {
    let recording = Recording::start(device)?;
    let steps = (0..PROFILED)
        .map(|_| stepper.step())
        .collect::<Result<Vec<_>>>()?;
    Ok((steps, recording.finish()?))
}

/// How experts are kept: packed, or in a type of numbers.
fn experts(model: &CausalLm) -> &'static str {
    let mut layers = model.decoder().layers.iter();
    let Some(first) = layers.find_map(|layer| layer.mlp.experts().next()) else {
        return "none";
    };
    match &first.matrix {
        ExpertWeight::Packed { .. } => "mxfp4",
        ExpertWeight::Dense(weight) => weight.stored().as_str(),
    }
}
