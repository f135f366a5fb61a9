//! `apus bench`: measures how fast training is on this machine, and which operations take the time.
//!
//! A measurement trains for a few steps on random tokens. The model and the steps are those of `apus sft`. Steps are first
//! timed and then profiled, so that profiling does not slow the timed ones. The limits of the device are measured in the
//! same process right after the steps, at the same clock rate.

mod against;
pub mod count;
mod groups;
mod lengths;
mod limits;
mod ops;
mod report;
mod steps;
mod table;
mod traffic;

use crate::out_of_memory::{Phase, explain as explain_out_of_memory};
use crate::setup;
use crate::train::fit::fit;
use crate::train::{args, parts};
use against::Earlier;
use anyhow::{Context, Result};
use apus_components::config::{BenchConfig, Resolved, SftConfig};
use apus_components::registry;
use apus_model::adapter::ParameterTable;
use apus_model::model::CausalLm;
use apus_model::nn::ExpertWeight;
use apus_model::profile::{Profile, Recording};
use apus_sdk::{errln, out};
use candle_core::Device;
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
    registry::load(&config.plugins)?;
    apus_data::hub::prefer(config.use_hf);
    let device = apus_model::device::open(&config.device)?;
    let earlier = config.against.as_deref();
    let earlier = earlier.map(|path| Earlier::read(path, config.ops));
    let earlier = earlier.transpose()?;
    let figures = match config.ops {
        true => {
            let given = |flag: &str| resolved.given(flag);
            ops::run(config, &device, &given)?
        }
        false => {
            let sft = config.sft()?;
            train(config, &sft, &device)
                .map_err(|error| explain_out_of_memory(error, &device, &args::args(&sft)))?
        }
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

/// Times training.
fn train(config: &BenchConfig, sft: &SftConfig, device: &Device) -> Result<Value> {
    let lengths = config.seq;
    let place = setup::find_model(&sft.model, sft.seed)?;
    let mut ready = parts::model(sft, &place, device)?;
    let (optimizer, _) = parts::optimizer(sft, &|_| None)?;
    let shape = fit(
        sft,
        registry::named(&optimizer)?,
        &mut ready.model,
        &vec![lengths.longest(); config.batch],
    )?;
    let (model, kept) = (&ready.model, shape.kept_layers as usize);
    let table = ParameterTable::of(model);
    errln!("{table}");

    let data = Data {
        batch: config.batch,
        lengths,
        share: config.trained_share,
        seed: sft.seed,
    };
    let mut stepper = Stepper::new(sft, model, kept, data)?;
    let mut steps = Vec::new();
    for at in 0..config.steps {
        let step = stepper.step().with_context(|| Phase::Step(at as u64 + 1))?;
        errln!(
            "step {}: {:.3} s, {:.0} tokens/s, loss {:.4}",
            at + 1,
            step.seconds,
            step.tokens() as f64 / step.seconds,
            step.loss
        );
        steps.push(step);
    }
    let peak = apus_model::device::usage::peak(device);
    let (profiled, profile) = profiled(&mut stepper, device)?;
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
        .map(|step| work(&step.lengths, step.targets))
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
        limits,
        groups: Groups::new(&profile, &counted),
    };
    out!("{figures}");
    Ok(figures.json())
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
