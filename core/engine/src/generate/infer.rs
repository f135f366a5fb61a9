//! `apus infer`: loads a model with its adapters and generates answers.

use super::adapters::{BASE, NamedAdapter};
use super::chat::{Input, Piped, Session, Typed, Voice, chat};
use super::dataset::{Asking, Questions, most};
use super::made_with::made_with;
use super::results::{MadeWith, Results};
use super::target::{InferTarget, adapter_folders};
use super::{Engine, EngineOptions, Job, Sampling, Stop, defaults, engine_for, logits};
use crate::setup::{Chosen, MadeLater, setup_of};
use anyhow::{Result, ensure};
use apus_base::{interrupts, signals};
use apus_components::config::{FLAGS, InferConfig, Resolved, Topic, load_plugins, values};
use apus_components::plugin;
use apus_components::registry::{self, Named};
use apus_data::chat::dialect::ViewOptions;
use apus_data::hub;
use apus_sdk::{Conversation, Metric, Options, errln};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const STOPPING: &str =
    "stopping: the answers that are ready are written; once more to leave at once";

/// Given flags that have no effect in a conversation at the terminal, because they are about the rows of a dataset.
fn idle_at_the_terminal(config: &InferConfig) -> Vec<&'static str> {
    let (now, unset) = (values(config), values(&InferConfig::default()));
    let flags = FLAGS
        .iter()
        .filter(|flag| flag.about.contains(&Topic::Questions));
    let names = flags.map(|flag| flag.name);
    names
        .filter(|&name| now.get(name) != unset.get(name))
        .collect()
}

/// Runs `apus infer`.
///
/// # Errors
/// A model or adapter that cannot be loaded, data that cannot be read, output that cannot be written.
pub fn infer(resolved: &Resolved<InferConfig>) -> Result<()> {
    let config = &resolved.config;
    ensure!(
        config.input_ids.is_empty() || config.dump_logits.is_some(),
        "input_ids are the tokens whose logits go to --dump_logits FILE, which is missing"
    );
    ensure!(
        config.top_logprobs.is_none() || config.logprobs,
        "top_logprobs is given and logprobs is false; give --logprobs true, too"
    );
    load_plugins(&config.plugins)?;
    hub::prefer(config.use_hf);
    check(resolved)?;
    let target = InferTarget::find(config)?;
    for line in target
        .adapters
        .iter()
        .flat_map(|adapter| plugin::compare(&adapter.dir))
    {
        errln!("note: {line}");
    }
    if let Some(path) = &config.dump_logits {
        let ids = logits::ids(
            &config.input_ids,
            target.place.config.architecture.vocab_size,
        )?;
        return logits::dump(
            &target.load(config, target.single())?,
            &ids,
            Path::new(path),
        );
    }
    let (sampling, note) = defaults::sampling(config, target.place.dir.as_deref())?;
    if let Some(note) = note {
        errln!("note: {note}");
    }
    match config.val_dataset.is_empty() && config.dataset.is_empty() {
        true => at_the_terminal(config, &target, sampling),
        false => over_rows(config, &target, sampling),
    }
}

/// Asks the components that answers and their rows need.
fn check(resolved: &Resolved<InferConfig>) -> Result<()> {
    let config = &resolved.config;
    let metrics = config.metrics.iter().map(registry::named);
    let metrics: Vec<Named<dyn Metric>> = metrics.collect::<Result<_>>()?;
    let mut later = MadeLater::default();
    later.add_adapters(adapter_folders(config)?.iter().map(PathBuf::as_path))?;
    later.add_format(config.dataset_format.as_ref())?;
    match config.val_dataset.as_slice() {
        [] => later.add_datasets(&["dataset"], &config.dataset, &Options::new())?,
        rows => later.add_datasets(&["val_dataset"], rows, &Options::new())?,
    }
    let mut chosen = Chosen::default();
    chosen.add(&["metrics"], &metrics);
    later.add_to(&mut chosen);
    chosen.check(setup_of(values(config)), resolved)
}

/// Answers the rows of a dataset.
fn over_rows(config: &InferConfig, target: &InferTarget, sampling: Sampling) -> Result<()> {
    if !config.val_dataset.is_empty() && !config.dataset.is_empty() {
        errln!("note: the rows of val_dataset are answered, those of dataset are not");
    }
    ensure!(
        target.adapters.len() < 2,
        "{} adapters are given, and rows are answered by one; name it alone (at the terminal, /adapter chooses among them)",
        target.adapters.len()
    );
    let saved = config.result_path.as_deref().map(Path::new);
    let saved = saved.map(MadeWith::beside).transpose()?.flatten();
    let date = saved.as_ref().and_then(|saved| saved.text("current_date"));
    let encoder = target.encoder(config, date)?;
    let questions = Questions::open(config, &encoder, positions(target), &target.home)?;
    let begun = questions.begin(&made_with(config, target, &encoder, &sampling)?)?;
    if questions.are_answered(&begun) {
        return questions.leave(&begun);
    }
    let model = target.load(config, target.single())?;
    let is_shown = config.stream.unwrap_or(false);
    let at_once = if is_shown { 1 } else { config.max_batch_size };
    let length = questions.longest() + sampling.max_new_tokens;
    let mut engine = engine_for(&model, &encoder, (at_once, length), config.deterministic)?;
    signals::catch_and_say(|| {}, STOPPING)?;
    let how = Asking {
        job: job(config, sampling),
        view: is_shown.then(|| view_options(config)),
        encoder: &encoder,
    };
    questions.answer(begun, &mut engine, &how)
}

/// Talks with whoever is at the terminal or at the other end of a pipe.
fn at_the_terminal(config: &InferConfig, target: &InferTarget, sampling: Sampling) -> Result<()> {
    let encoder = target.encoder(config, None)?;
    for flag in idle_at_the_terminal(config) {
        errln!("note: {flag}: is about rows of --val_dataset, and there are none");
    }
    let are_beside = target.are_beside()?;
    let results = config.result_path.as_deref().map(Path::new);
    let results = results.map(Results::open).transpose()?;
    let own = target.single().filter(|_| !are_beside);
    let model = target.load(config, own)?;
    let options = EngineOptions {
        max_batch_size: 1,
        deterministic: config.deterministic,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(&model, Arc::clone(encoder.tokenizer()), options)?;
    let voices = voices(&mut engine, target, own)?;
    let names = voices.iter().map(|voice| voice.name.clone()).collect();
    let first = voices.iter().find(|voice| voice.adapter.is_some());
    let mut session = Session {
        engine: &mut engine,
        encoder: &encoder,
        job: Job {
            adapter: first.and_then(|voice| voice.adapter.clone()),
            logprobs: None,
            ..job(config, sampling)
        },
        voices,
        most: most(config, positions(target)),
        stream: config.stream.unwrap_or(true),
        view_options: view_options(config),
        results,
    };
    let (mut typed, mut lines, mut piped);
    let input: &mut dyn Input =
        match std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            true => {
                interrupts::catch()?;
                typed = Typed::new(names)?;
                &mut typed
            }
            false => {
                lines = std::io::stdin().lock();
                piped = Piped(&mut lines);
                &mut piped
            }
        };
    let mut output = std::io::stdout();
    let start = Instant::now();
    let outcome = chat(&mut session, input, &mut output).and_then(|counts| {
        if counts.samples > 0 {
            writeln!(output, "{}", counts.line(start.elapsed().as_secs_f64()))?;
        }
        Ok(())
    });
    match outcome {
        // Whoever read along has left, and nobody else waits for an answer.
        Err(error) if is_closed(&error) => Ok(()),
        result => result,
    }
}

/// What can answer: the model as it is loaded, and the adapters beside it, which the engine is given.
fn voices(
    engine: &mut Engine,
    target: &InferTarget,
    own: Option<&NamedAdapter>,
) -> Result<Vec<Voice>> {
    let mut voices = vec![Voice {
        name: own.map_or(BASE, |own| &own.name).to_owned(),
        adapter: None,
    }];
    for adapter in target.adapters.iter().filter(|_| own.is_none()) {
        engine.load_adapter(&adapter.name, &adapter.dir)?;
        voices.push(Voice {
            name: adapter.name.clone(),
            adapter: Some(adapter.name.clone()),
        });
    }
    Ok(voices)
}

/// What becomes of every conversation.
fn job(config: &InferConfig, sampling: Sampling) -> Job {
    Job {
        stop: Stop {
            ids: Vec::new(),
            strings: config.stop_words.clone(),
        },
        keeps_stop: true,
        logprobs: config.logprobs.then(|| config.top_logprobs.unwrap_or(0)),
        ..Job::new(Conversation::default(), sampling, 0)
    }
}

fn positions(target: &InferTarget) -> usize {
    target.place.config.architecture.max_position_embeddings
}

fn view_options(config: &InferConfig) -> ViewOptions {
    ViewOptions {
        thinking: config.show_thinking,
        colour: console::colors_enabled(),
    }
}

/// Whether an error means that the reader of our output has closed the pipe.
fn is_closed(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
