//! Set-up: from a configuration to everything that a run needs. What cannot work is refused here, the cheapest check first: flags,
//! components, the device, the data, and the weights last.

use crate::generate::{Reference, References};
use crate::out_of_memory;
use crate::setup::{self, AskedColumns, ModelPlace};
use crate::train::args::args;
use crate::train::best;
use crate::train::channel_loss;
use crate::train::dry_run::dry_run;
use crate::train::examples::Examples;
use crate::train::fit::{Trial, fit, largest_micro_batch};
use crate::train::optimizer::alone::can_be_divided;
use crate::train::parts::{self, Components};
use crate::train::ranks::{self, LastWords, Ranks, Start};
use crate::train::resume::Resume;
use crate::train::run_folder::RunFolder;
use crate::train::settings::Settings;
use crate::train::shard_base::{Planned, decide_base};
use crate::train::trained_part::TrainedPart;
use crate::train::{about, screen};
use anyhow::{Context, Error, Result, ensure};
use apus_base::lines::{info, warning};
use apus_base::signals;
use apus_components::config::{Resolved, SftConfig, ShardBase, load_plugins, sharding};
use apus_components::registry::Named;
use apus_components::{plugin, registry};
use apus_data::chat::Encoder;
use apus_data::data::Stream;
use apus_data::hub;
use apus_model::adapter::ParameterTable;
use apus_model::model::CausalLm;
use apus_sdk::Sampler;
use apus_world::Place;
use candle_core::Device;
use console::Term;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What a run borrows until it ends.
pub struct SetUp {
    /// The configuration; the date in it is that of the run.
    pub config: SftConfig,
    /// The model, with its adapters.
    pub model: CausalLm,
    /// How its trained part is written and read.
    pub trained: TrainedPart,
    /// How conversations become tokens.
    pub encoder: Arc<Encoder>,
    /// What is trained and evaluated on.
    pub data: setup::Data,
    /// The rows of the evaluation data that are answered, where answers are asked for.
    pub references: Vec<Reference>,
    /// The numbers of the run.
    pub settings: Settings,
    /// Whether each rank updates a part of the parameters.
    pub divided: bool,
    ranks: usize,
    table: ParameterTable,
}

/// What a run takes ownership of.
pub struct Taken {
    /// The components of the run, made once.
    pub components: Components,
    /// The training data, where it is streamed.
    pub stream: Option<Stream>,
    /// Its folder.
    pub folder: RunFolder,
    /// The other ranks, where there are several.
    pub ranks: Option<Ranks>,
}

/// What set-up has led to.
pub enum Begun {
    /// A run that can start.
    Run(Box<SetUp>, Box<Taken>),
    /// This process has followed rank 0 to the end of its run.
    Followed,
    /// A dry run, which ends with the set-up.
    DryRun,
}

/// Sets up a run. A rank other than 0 follows the run of rank 0 here.
pub fn set_up(resolved: &Resolved<SftConfig>, others: &LastWords) -> Result<Begun> {
    let mut config = resolved.config.clone();
    config.check(&|flag| resolved.given(flag))?;
    // A dry run starts no ranks: one process plans for all of them.
    let (rank, count) = ranks::rank_and_size()?;
    let among = match config.dry_run {
        true if rank > 0 => return Ok(Begun::DryRun),
        true => None,
        false => ranks::place(config.shard_base == Some(ShardBase::True))?,
    };
    if among.is_some() {
        signals::leave_until_caught()?;
    }
    for note in &resolved.notes {
        info!("note: {note}");
    }
    load_plugins(&config.plugins)?;
    hub::prefer(config.use_hf);
    if let Some(place) = among.as_ref().filter(|place| place.rank > 0) {
        let components = parts::components(resolved)?;
        parts::check(resolved, &config, &components, (rank, count), None)?;
        let device = rank_device(&config, place)?;
        let joined = ranks::join(&config, place, &device)?;
        others.go_to(&joined);
        joined.agree(&must_agree(&config)?)?;
        joined.least_free(&device)?;
        ranks::follow(resolved, joined, &device)?;
        return Ok(Begun::Followed);
    }
    let resume = Resume::open(&config)?;
    if let Some(resume) = &resume {
        warn_of_other_plugins(&resume.dir);
        resume.keep_date(&mut config);
    }
    let components = parts::components(resolved)?;
    best::check_name(&config, &components, None)?;
    parts::check(resolved, &config, &components, (rank, count), None)?;
    let device = match &among {
        Some(place) => rank_device(&config, place)?,
        None => open_device(&config)?,
    };
    let joined = among
        .as_ref()
        .map(|place| ranks::join(&config, place, &device));
    let joined = joined.transpose()?;
    let mut free = apus_model::device::usage::free(&device);
    if let Some(ranks) = &joined {
        others.go_to(ranks);
        ranks.agree(&must_agree(&config)?)?;
        free = ranks.least_free(&device)?;
        ranks.enter("reading the data", true);
        info!("{} ranks, {}", ranks.size(), ranks.carrier());
    }
    let is_group_of_one = count == 1 && joined.is_some();
    let sharding = sharding(&config, count)?;
    for note in sharding.notes.iter().filter(|_| !is_group_of_one) {
        info!("note: {note}");
    }
    let divided = sharding.optimizer && can_be_divided(&|| parts::trial_optimizer(resolved))?;
    let place = setup::find_model(&config.model, config.seed)?;
    let encoder = Arc::new(setup::run_encoder(&config, place.dir.as_deref())?);
    // Today's if it was left open: what is trained follows from it.
    config.current_date = encoder.options().render.date.clone();
    let asked = AskedColumns::of(&components.loss)?.and_of(&components.sampler)?;
    let mut data = read_data(&config, &encoder, &place, &asked)?;
    if config.enable_channel_loss {
        check_channels(&config, &components, &data)?;
    }
    let rows = data.stream.is_none().then_some(data.train.samples.len());
    if rows.is_some() {
        parts::check(resolved, &config, &components, (rank, count), rows)?;
    }
    let references = references(&config, &encoder, &place, &mut data)?;
    let lengths = match &data.stream {
        Some(_) => setup::longest(&config, &place.config.architecture),
        None => {
            let sampler = registry::named(&config.sampler_spec())?;
            let mut beforehand = parts::sampling(&config, sampler, &data, count)?;
            largest_micro_batch(&config, &mut beforehand, count)?
        }
    };
    let trial = || {
        Ok(Trial {
            optimizer: parts::trial_optimizer(resolved)?,
            ranks: if divided { count } else { 1 },
        })
    };
    if config.dry_run {
        let data = (&mut data, lengths.as_slice());
        dry_run(&config, &place, &device, &encoder, &trial, data, count)?;
        return Ok(Begun::DryRun);
    }
    let mut base = None;
    if let Some(ranks) = &joined {
        let (shard_base, line) = decide_base(&config, count, |over| {
            let data = (lengths.as_slice(), free);
            Planned::new(&config, (&place, &device), trial()?, data, over)
        })?;
        if let Some(line) = line {
            info!("{line}");
        }
        ranks.broadcast(Start {
            lengths: lengths.clone(),
            shard_base,
            divided,
            model: parts::model_hash(&config, &place)?,
        })?;
        if shard_base {
            base = Some(ranks.sharding()?);
        }
    }

    let explain = |error| out_of_memory::explain(error, &device, &args(&config));
    let mut ready = parts::model(&config, &place, &device, base).map_err(explain)?;
    let shape = fit(&config, trial()?, &mut ready.model, &lengths).map_err(explain)?;
    let table = ParameterTable::of(&ready.model);
    info!("{table}");
    let folder = RunFolder::take(&config)?;
    folder.warn_of_other_runs(resume.as_ref().map(|resume| resume.dir.as_path()));
    let args = args(&config);
    let mut terms = parts::terms(resolved, &args, &place, &ready)?;
    // Several ranks make the step of one process with as many times the micro-batches.
    let of_step = config.per_device_train_batch_size * config.accumulation() * count;
    terms.put("examples_per_step", of_step);
    let (kept_layers, about) = (shape.kept_layers as usize, about::model(&table));
    let going_on = (resume, terms);
    let mut settings =
        parts::loop_settings(&config, folder.path(), kept_layers, args, about, going_on)?;
    settings.gradient_accumulation_steps *= count;
    settings.planned_tokens = shape.tokens as usize;
    signals::catch(screen::restore)?;
    let taken = Taken {
        components,
        stream: data.stream.take(),
        folder,
        ranks: joined,
    };
    let set_up = SetUp {
        config,
        model: ready.model,
        trained: TrainedPart {
            adapter: ready.adapter,
            config: place.config.raw.clone(),
            model_dir: place.dir.clone(),
        },
        encoder,
        data,
        references,
        settings,
        divided,
        ranks: count,
        table,
    };
    Ok(Begun::Run(Box::new(set_up), Box::new(taken)))
}

impl SetUp {
    /// What is trained on: a stream, or what lies in memory.
    ///
    /// # Errors
    /// The sampler failed.
    pub fn examples(
        &self,
        stream: Option<Stream>,
        sampler: Named<dyn Sampler>,
    ) -> Result<Examples<'_>> {
        if let Some(stream) = stream {
            return Ok(Examples::streamed(stream));
        }
        let train = &self.data.train;
        let sampling = parts::sampling(&self.config, sampler, &self.data, self.ranks)?;
        Ok(Examples::in_memory(
            &train.samples,
            train.packs.as_deref(),
            sampling,
        ))
    }

    /// An error that ends the run, with what helps against it where memory was short.
    pub fn explain(&self, error: Error) -> Error {
        out_of_memory::explain(error, self.model.device(), &self.settings.config)
    }

    /// Writes what a run's folder holds from its beginning on.
    pub fn write_files(&self) -> Result<()> {
        let dir = &self.settings.run_dir;
        let args = serde_json::to_string_pretty(&self.settings.config)?;
        fs::write(dir.join("args.json"), args)
            .with_context(|| format!("{}: args.json cannot be written", dir.display()))?;
        if let Some(rows) = &self.data.split_rows {
            let lines: Vec<String> = rows.iter().map(|row| row.one_line()).collect();
            fs::write(dir.join("val_dataset.jsonl"), lines.join("\n") + "\n")?;
            let formats: BTreeSet<_> = rows.iter().filter_map(|row| row.format.clone()).collect();
            for format in formats {
                info!(
                    "note: val_dataset.jsonl has rows of a dataset whose format was given: {format}; whoever reads the file \
                     gives it that format too"
                );
            }
        }
        Ok(())
    }

    /// What the last line of the log says of model and data, by ms-swift's names.
    pub fn described(&self) -> Map<String, Value> {
        let (train, val) = (&self.data.train.report, &self.data.val.report);
        Map::from_iter([
            (
                "model_parameter_info".to_owned(),
                json!(parameter_info(&self.table)),
            ),
            ("train_dataset".to_owned(), json!(train.to_string())),
            ("val_dataset".to_owned(), json!(val.to_string())),
        ])
    }
}

/// A resumed run says which plugins of it are missing or are other builds now.
fn warn_of_other_plugins(checkpoint: &Path) {
    for line in plugin::compare(checkpoint) {
        warning!("{line}");
    }
}

/// What all ranks must have in common: the configuration, but for where each of them is, and the plugins.
fn must_agree(config: &SftConfig) -> Result<Vec<(String, String)>> {
    let mut values: Vec<(String, String)> = args(config)
        .into_iter()
        .filter(|(name, _)| name != "device")
        .map(|(name, value)| (name, value.to_string()))
        .collect();
    for plugin in plugin::records() {
        values.push(("plugin".to_owned(), plugin.to_string()));
    }
    Ok(values)
}

fn rank_device(config: &SftConfig, place: &Place) -> Result<Device> {
    let device = ranks::device(config, place)?;
    if config.deterministic {
        apus_model::device::make_deterministic(&device)?;
    }
    Ok(device)
}

fn open_device(config: &SftConfig) -> Result<Device> {
    let device = apus_model::device::open(&config.device)?;
    if config.deterministic {
        apus_model::device::make_deterministic(&device)?;
    }
    Ok(device)
}

/// The data, and what became of its rows as far as that is known before training.
fn read_data(
    config: &SftConfig,
    encoder: &Arc<Encoder>,
    place: &ModelPlace,
    asked: &AskedColumns,
) -> Result<setup::Data> {
    let vocabulary = Some(place.config.architecture.vocab_size);
    let data = setup::data(config, encoder, vocabulary, asked)?;
    match &data.stream {
        Some(_) => info!("data: read as training goes on, reported at the end"),
        None => {
            let columns = Term::stderr().size_checked().map(|(_, columns)| columns);
            info!("data\n{}", data.train.report.to_fit(columns));
            channel_loss::report(config, &data.train.report);
        }
    }
    Ok(data)
}

/// The rows that are answered at each evaluation, if answers are asked for.
fn references(
    config: &SftConfig,
    encoder: &Encoder,
    place: &ModelPlace,
    data: &mut setup::Data,
) -> Result<Vec<Reference>> {
    if !config.predict_with_generate {
        return Ok(Vec::new());
    }
    let records = std::mem::take(&mut data.asked_rows);
    let formats = setup::formats(
        config.dataset_format.as_ref(),
        config.disable_auto_column_mapping,
        config.dataset.iter().chain(&config.val_dataset),
        &config.dataset_options(),
    )?;
    let positions = place.config.architecture.max_position_embeddings;
    let found = References::read(&records, &formats, encoder, positions)?;
    if let Some(line) = found.warning() {
        ensure!(!config.strict, "predict_with_generate: {line} (strict)");
        warning!("predict_with_generate: {line}");
    }
    ensure!(
        !found.rows.is_empty(),
        "predict_with_generate is true, and no row of the evaluation data can be answered and compared"
    );
    Ok(found.rows)
}

/// Holds the names of the channels' losses, which are known now, against what was given by name.
fn check_channels(config: &SftConfig, components: &Components, data: &setup::Data) -> Result<()> {
    let evaluated = channel_loss::names(&data.val.samples);
    best::check_name(config, components, Some(&evaluated))?;
    let all = &evaluated | &channel_loss::names(&data.train.samples);
    channel_loss::check_names(&all, &components.metrics, &components.callbacks)
}

/// `20918.7386M Params (3.9813M Trainable [0.0190%])`, as ms-swift writes it.
fn parameter_info(table: &ParameterTable) -> String {
    let (all, trained) = (
        table.parameters() as f64 / 1e6,
        table.trainable() as f64 / 1e6,
    );
    format!(
        "{all:.4}M Params ({trained:.4}M Trainable [{:.4}%])",
        100.0 * trained / all
    )
}
