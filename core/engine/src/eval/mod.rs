//! `apus eval`: measures a model over datasets, and adapters on it beside it.
//!
//! The numbers are those that a run has in its evaluations, by the same code, so that they agree with its log. Whatever is
//! not given is as in the run that made the weights.

mod answers;
mod candidates;
mod json;
mod numbers;
mod of_infer;
mod page;
mod row_losses;
mod sets;
mod table;

pub use of_infer::of_infer;

use crate::generate::{Answering, Sampling, SplitMetrics, split};
use crate::host::{RunView, Shown};
use crate::out_of_memory::explain;
use crate::progress_bar::Progress;
use crate::setup::{self, AskedColumns, Chosen, MadeLater};
use crate::train::about;
use crate::train::args::args;
use crate::train::evaluate::{Evaluation, Spelling, evaluate};
use anyhow::{Context, Result};
use apus_base::lines::{info, warning};
use apus_components::config::{EvalConfig, Resolved, SftConfig, load_plugins, values};
use apus_components::registry::{self, Named};
use apus_data::chat::Encoder;
use apus_data::hub;
use apus_model::model::CausalLm;
use apus_sdk::{Loss, Metric, RunInfo, out, outln};
use candidates::{Candidates, Names};
use numbers::Numbers;
use row_losses::RowLosses;
use serde_json::{Map, Value};
use sets::EvalSet;
use std::path::Path;

/// What was found of each model on each dataset.
pub struct Report {
    /// The names of the models; the first is what the others are compared with.
    pub models: Vec<String>,
    /// The datasets.
    pub sets: Vec<EvalSet>,
    /// The numbers, by model and dataset.
    pub numbers: Vec<Vec<Numbers>>,
    /// What the page and the file say of how it was measured.
    pub settings: Map<String, Value>,
}

/// Runs `apus eval`.
///
/// # Errors
/// A model or adapter that cannot be loaded, data that cannot be read, a component that failed.
pub fn run(resolved: &Resolved<EvalConfig>) -> Result<()> {
    let given = |flag: &str| resolved.given(flag);
    let flags = resolved.config.sft(&Map::new(), &given)?;
    load_plugins(&flags.plugins)?;
    hub::prefer(flags.use_hf);
    let names = Names::of(&flags)?;
    let config = as_in_the_run(resolved, &names)?;
    let metrics = config.metrics.iter().map(registry::named);
    let metrics: Vec<Named<dyn Metric>> = metrics.collect::<Result<_>>()?;
    let loss = registry::named::<dyn Loss>(&config.loss_type)?;
    let mut later = MadeLater::of_data(&config)?;
    later.add_adapters(names.adapters())?;
    let mut chosen = Chosen::default();
    chosen.add(&["loss_type"], [&loss]);
    chosen.add(&["metrics"], &metrics);
    later.add_to(&mut chosen);
    chosen.check(setup::setup_of(args(&config)), resolved)?;
    let place = names.find(&flags, resolved.config.with_base)?;
    let mut metrics = split(metrics);
    let asks = !metrics.1.is_empty() || resolved.config.show_answers > 0;

    let device = apus_model::device::open(&config.device)?;
    if config.deterministic {
        apus_model::device::make_deterministic(&device)?;
    }
    let encoder = setup::run_encoder(&config, place.model.dir.as_deref())?;
    let columns = AskedColumns::of(&loss)?;
    let sets = sets::read(&config, &encoder, &place.model, asks, &columns)?;
    let mut measure = Measure {
        config: &config,
        encoder: &encoder,
        loss,
        answering: asks.then(|| {
            let size = config.per_device_eval_batch_size;
            Answering::new(
                sampling(&resolved.config, &config),
                size,
                config.deterministic,
            )
        }),
    };
    let mut candidates = Candidates::open(&place, &config)?;
    let mut numbers = Vec::new();
    for (at, name) in place.names().iter().enumerate() {
        let model = candidates
            .model(at, &device)
            .map_err(|error| explain(error, &device, &values(&config)))
            .with_context(|| name.clone())?;
        let view = run_of(&config, model, &encoder);
        let _busy = view.busy();
        measure.begin(&view, &mut metrics)?;
        let mut of_sets = Vec::new();
        for set in &sets {
            let found = measure.set(model, set, &mut metrics);
            let found = found.map_err(|error| explain(error, &device, &values(&config)));
            of_sets.push(found.with_context(|| format!("{name} on {}", set.name))?);
        }
        numbers.push(of_sets);
    }
    let report = Report {
        models: place.names().to_vec(),
        sets,
        numbers,
        settings: values(&config),
    };
    outln!("{}", table::table(&report));
    for line in table::notes(&report) {
        outln!("{line}");
    }
    out!("{}", answers::shown(&report, resolved.config.show_answers));
    write(&report, &resolved.config)
}

/// The files that were asked for.
fn write(report: &Report, config: &EvalConfig) -> Result<()> {
    let files = [
        (
            &config.json,
            "numbers",
            json::text as fn(&Report, usize) -> String,
        ),
        (&config.html, "page", page::page),
    ];
    for (path, what, text) in files {
        if let Some(path) = path {
            if let Some(parent) = Path::new(path).parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("{path}: cannot be written"))?;
            }
            std::fs::write(path, text(report, config.show_answers))
                .with_context(|| format!("{path}: cannot be written"))?;
            outln!("{what}: {path}");
        }
    }
    Ok(())
}

/// The configuration with what is not given taken from the run that made the weights; of several adapters from the
/// first, and a line names what other ones were made with.
fn as_in_the_run(resolved: &Resolved<EvalConfig>, names: &Names) -> Result<SftConfig> {
    let given = |flag: &str| resolved.given(flag);
    let Some(((leader, first), rest)) = names.args.split_first() else {
        return resolved.config.sft(&Map::new(), &given);
    };
    let mut config = resolved.config.sft(first.all(), &given)?;
    config.model.clone_from(&names.name);
    for (name, args) in rest {
        let names: Vec<_> = EvalConfig::differing(first.all(), args.all(), &given).collect();
        if !names.is_empty() {
            warning!(
                "{name} was made with other values of {}; all are measured with those of {leader}",
                names.join(", ")
            );
        }
    }
    Ok(config)
}

fn sampling(flags: &EvalConfig, config: &SftConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_p: flags.top_p.unwrap_or(1.0),
        top_k: flags
            .top_k
            .and_then(|k| usize::try_from(k).ok())
            .unwrap_or(0),
        repetition_penalty: flags.repetition_penalty.unwrap_or(1.0),
        seed: config.seed,
        ..Sampling::greedy(config.max_new_tokens)
    }
}

/// How a model is measured.
struct Measure<'a> {
    config: &'a SftConfig,
    encoder: &'a Encoder,
    loss: Named<dyn Loss>,
    /// How rows are answered, if answers are asked for.
    answering: Option<Answering>,
}

/// The run that components see of which a model is measured.
fn run_of(config: &SftConfig, model: &CausalLm, encoder: &Encoder) -> RunView {
    let info = RunInfo {
        config: values(config),
        ..about::process()
    };
    let shown = Shown {
        params: model.params().to_vec(),
        own: None,
        tokenizer: Some(encoder.tokenizer().clone()),
    };
    RunView::new(info, shown)
}

impl Measure<'_> {
    /// Gives the run to loss and metrics.
    fn begin(&mut self, view: &RunView, metrics: &mut SplitMetrics) -> Result<()> {
        view.begin(&mut self.loss, |loss, run| loss.begin(run))?;
        let mut all = metrics.0.iter_mut().chain(&mut metrics.1);
        all.try_for_each(|metric| view.begin(metric, |metric, run| metric.begin(run)))
    }

    /// The numbers of a model on a dataset.
    fn set(
        &self,
        model: &CausalLm,
        set: &EvalSet,
        (of_tokens, of_answers): &mut SplitMetrics,
    ) -> Result<Numbers> {
        let samples = &set.data.samples;
        let rows = RowLosses::default();
        of_tokens.push(Named::new("the losses of rows", Box::new(rows.clone())));
        let on = Evaluation {
            examples: samples,
            batch_size: self.config.per_device_eval_batch_size,
            aux_coef: self.config.router_aux_loss_coef,
            channels: self.config.enable_channel_loss,
            decoder: &Spelling(self.encoder),
            ranks: None,
        };
        let batches = samples.len().div_ceil(on.batch_size.max(1));
        let bar = Progress::open(batches, 0);
        let mut done = 0;
        let evaluated = evaluate(model, &self.loss, of_tokens, &on, || {
            done += 1;
            bar.set(done, || format!("losses of {}", set.name));
            Ok(())
        });
        of_tokens.pop();
        drop(bar);
        let mut found = Numbers::new(evaluated?, rows.take(), self.is_cross_entropy());
        if let Some(answering) = &self.answering {
            let bar = Progress::open(set.references.len(), 0);
            let mut after = |there| bar.set(there, || format!("answers to {}", set.name));
            let (answers, counts) =
                answering.answer(model, self.encoder, &set.references, &mut after)?;
            drop(bar);
            found.answers = answers;
            found.generated = Some(counts);
            found.measure_answers(&set.references, of_answers)?;
        }
        Ok(found)
    }

    /// Whether the loss is the one whose exponential is a perplexity.
    fn is_cross_entropy(&self) -> bool {
        self.config.loss_type == SftConfig::default().loss_type
    }
}

/// Says of a dataset what became of its rows.
fn say(set: &EvalSet) {
    info!("{}\n{}", set.name, set.data.report);
    for line in set.data.report.warnings() {
        warning!("{}: {line}", set.name);
    }
}
