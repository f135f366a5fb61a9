//! What a rank other than 0 does: it keeps a model and an optimizer as rank 0 has them, and does what it is told.

use super::{Evaluated, Ranks, Start, StepTask, Task, is_agreed};
use crate::host::{Busy, RunView, Shown};
use crate::out_of_memory;
use crate::setup;
use crate::train::about::machines;
use crate::train::evaluate;
use crate::train::fit::{Trial, fit};
use crate::train::gradient_check;
use crate::train::optimizer::OptimizerHost;
use crate::train::parts;
use crate::train::run::forward_options;
use crate::train::run::obey;
use crate::train::settings::Settings;
use crate::train::step::{Step, StepHooks, Window};
use crate::train::terms::Terms;
use crate::train::{args, screen};
use anyhow::{Context, Result, ensure};
#[cfg(unix)]
use apus_base::lines::warning;
use apus_base::signals;
use apus_components::config::{Resolved, SftConfig};
use apus_components::registry::{self, Named};
use apus_model::model::CausalLm;
use apus_sdk::{Loss, Need, RunInfo, errln};
use candle_core::Device;
use serde_json::Map;
use std::path::Path;

/// Follows rank 0 until the run is over.
///
/// # Errors
/// What this rank cannot do; the other ranks end with the same words.
pub fn follow(resolved: &Resolved<SftConfig>, ranks: Ranks, device: &Device) -> Result<()> {
    // A signal is rank 0's to act on. Here it must only not end the process in the middle of a step.
    signals::catch(screen::restore)?;
    let card = apus_model::device::bus_address(device);
    let machine = machines::tell(card, ranks.reports());
    let done =
        Follower::start(resolved, &ranks, device).and_then(|mut follower| follower.work(&ranks));
    drop(machine);
    match done {
        Ok(()) => ranks.finish(),
        Err(error) => {
            let error = out_of_memory::explain(error, device, &args::args(&resolved.config));
            ranks.fail(&error);
            Err(error)
        }
    }
}

struct Follower {
    model: CausalLm,
    loss: Named<dyn Loss>,
    optimizer: OptimizerHost,
    settings: Settings,
    gradient_is_checked: bool,
    /// The run that loss and optimizer were given; rank 0 alone sets values.
    _view: (RunView, Busy),
}

impl Follower {
    /// Loads the model and waits for the state of rank 0.
    fn start(resolved: &Resolved<SftConfig>, ranks: &Ranks, device: &Device) -> Result<Self> {
        let config = &resolved.config;
        let start: Start = ranks.broadcast(Start {
            lengths: Vec::new(),
            shard_base: false,
            divided: false,
            model: String::new(),
        })?;
        let sharding = match start.shard_base {
            true => Some(ranks.sharding()?),
            false => None,
        };
        let place = setup::find_model(&config.model, config.seed)?;
        ensure!(
            parts::model_hash(config, &place)? == start.model,
            "{} has other weights or another config.json on this host than on that of rank 0: all ranks need the same files",
            config.model
        );
        let mut model = parts::model(config, &place, device, sharding)?.model;
        let trial = Trial {
            optimizer: parts::trial_optimizer(resolved)?,
            ranks: if start.divided { ranks.size() } else { 1 },
        };
        let shape = fit(config, trial, &mut model, &start.lengths)?;
        let none = (None, Terms::default());
        let kept_layers = shape.kept_layers as usize;
        let settings = parts::loop_settings(
            config,
            Path::new(""),
            kept_layers,
            Map::new(),
            Map::new(),
            none,
        )?;
        let mut optimizer =
            OptimizerHost::new(parts::trial_optimizer(resolved)?, model.params().to_vec());
        if start.divided {
            ranks.divide(&model, &mut optimizer)?;
        }
        ranks.share_weights(model.params())?;
        ranks.share_state(&mut optimizer, device, 0)?;
        let mut loss: Named<dyn Loss> = registry::named(&config.loss_type)?;
        let tokenizer = match loss.declares(Need::Run) || optimizer.declares(Need::Run) {
            true => Some(
                setup::run_encoder(config, place.dir.as_deref())?
                    .tokenizer()
                    .clone(),
            ),
            false => None,
        };
        let info = RunInfo {
            config: args::args(config),
            rank: ranks.rank(),
            world_size: ranks.size(),
            ..RunInfo::default()
        };
        let view = RunView::new(
            info,
            Shown {
                params: model.params().to_vec(),
                own: start.divided.then(|| optimizer.own_names()),
                tokenizer,
            },
        );
        let busy = view.busy();
        view.begin(&mut loss, |loss, run| loss.begin(run))?;
        optimizer.begin(&view)?;
        Ok(Self {
            model,
            loss,
            optimizer,
            settings,
            gradient_is_checked: false,
            _view: (view, busy),
        })
    }

    fn work(&mut self, ranks: &Ranks) -> Result<()> {
        loop {
            ranks.enter("the next task", true);
            match ranks.receive()? {
                Task::Step(task) => {
                    let step = task.step + 1;
                    ranks.enter(&format!("step {step}"), false);
                    let made = self.step(ranks, &task);
                    said(made.with_context(|| out_of_memory::Phase::Step(step)))?;
                }
                Task::Evaluate(batch) => {
                    ranks.enter("evaluation", false);
                    let found = match batch {
                        Some(batch) => {
                            let batch = batch.batch(self.model.device())?;
                            evaluate::batch(
                                &self.model,
                                &self.loss,
                                &batch,
                                self.settings.router_aux_loss_coef,
                            )?
                        }
                        None => {
                            self.idle()?;
                            Evaluated::default()
                        }
                    };
                    ranks.gather(&found)?;
                }
                Task::Compare(step) => {
                    ranks.enter("the comparison of weights", true);
                    let (params, label) = (self.model.params(), self.optimizer.label());
                    said(ranks.take_part_in_comparison(params, step, label))?;
                }
                Task::GiveState => {
                    ranks.enter("the optimizer's state, which rank 0 saves", true);
                    said(ranks.give_state(&self.optimizer).map(drop))?;
                }
                Task::Hook(hook) => {
                    ranks.enter("other weights for an evaluation or a checkpoint", true);
                    said(ranks.hook(&mut self.optimizer, hook))?;
                }
                Task::Obey(requested) => {
                    obey(&self.model, &mut self.optimizer, &requested);
                }
                Task::PrintInto(run) => print_into(Path::new(&run)),
                Task::Forward => {
                    ranks.enter("an answer of rank 0", true);
                    self.idle()?;
                }
                Task::TakeWeights => ranks.share_weights(self.model.params())?,
                Task::End => return Ok(()),
            }
        }
    }

    /// Takes part in a forward pass of other ranks, where the base is spread over all.
    fn idle(&self) -> Result<()> {
        match self.model.decoder().is_sharded() {
            true => self.model.decoder().idle_forward(false),
            false => Ok(()),
        }
    }

    fn step(&mut self, ranks: &Ranks, task: &StepTask) -> Result<()> {
        let batches = task.batches.iter();
        let batches = batches.map(|batch| batch.batch(self.model.device()));
        let window = Window {
            batches: batches.collect::<Result<_>>()?,
            supervised: task.supervised,
            passes: task.passes,
        };
        let step = Step {
            model: &self.model,
            loss: &self.loss,
            max_grad_norm: self.settings.max_grad_norm,
            ranks: Some(ranks),
        };
        let options = forward_options(&self.settings, task.step);
        step.make(
            &mut self.optimizer,
            &window,
            &options,
            &mut RateOfRank0 {
                ranks,
                check_gradient: !std::mem::replace(&mut self.gradient_is_checked, true),
            },
        )
        .map(drop)
    }
}

/// Lets this rank print into the folder of the run. One that cannot goes on where it prints now.
fn print_into(run: &Path) {
    #[cfg(unix)]
    if let Err(error) = apus_world::outputs::move_to(run) {
        warning!("{error:#}; this rank prints on here");
    }
    #[cfg(not(unix))]
    let _ = run;
}

/// The learning rate comes from rank 0, where the schedule and the callbacks are asked.
struct RateOfRank0<'a> {
    ranks: &'a Ranks,
    /// Whether this is the first step; rank 0 has the gradients of its own parameters alone, if they are divided.
    check_gradient: bool,
}

impl StepHooks for RateOfRank0<'_> {
    fn gradient_and_update(&mut self, optimizer: &OptimizerHost) -> Result<f64> {
        if self.check_gradient && self.ranks.is_divided() {
            gradient_check::check(optimizer.params(), optimizer.own())?;
        }
        self.ranks.broadcast(0.0)
    }
}

/// An error that all ranks have heard of is said; what comes of it, rank 0 decides.
fn said(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_agreed(&error) => {
            errln!("error: {error:#}");
            Ok(())
        }
        result => result,
    }
}
