//! Set-up: from a configuration to everything that a run needs. What cannot work is refused here, the cheapest check first: flags,
//! components, the device, the data, and the weights last.

use crate::out_of_memory;
use crate::setup::{self, ModelPlace};
use crate::train::args::args;
use crate::train::best;
use crate::train::channel_loss;
use crate::train::dry_run::dry_run;
use crate::train::examples::{Examples, lengths};
use crate::train::fit::fit;
use crate::train::parts::{self, Components};
use crate::train::resume::Resume;
use crate::train::run_folder::RunFolder;
use crate::train::settings::Settings;
use crate::train::trained_part::TrainedPart;
use crate::train::{about, screen};
use anyhow::{Context, Error, Result, bail};
use apus_base::lines::{info, warning};
use apus_base::signals;
use apus_components::config::{Resolved, SftConfig};
use apus_components::{plugin, registry};
use apus_data::chat::Encoder;
use apus_data::data::Stream;
use apus_data::hub;
use apus_model::adapter::ParameterTable;
use apus_model::model::CausalLm;
use candle_core::Device;
use console::Term;
use serde_json::{Map, Value, json};
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
    /// The numbers of the run.
    pub settings: Settings,
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
}

/// Sets up a run; nothing where a dry run was asked for, which ends here.
pub fn set_up(resolved: &Resolved<SftConfig>) -> Result<Option<(SetUp, Taken)>> {
    let mut config = resolved.config.clone();
    config.check(&|flag| resolved.given(flag))?;
    refuse_many_processes(&config)?;
    for note in &resolved.notes {
        info!("note: {note}");
    }
    registry::load(&config.plugins)?;
    hub::prefer(config.use_hf);
    let resume = Resume::open(&config)?;
    if let Some(resume) = &resume {
        warn_of_other_plugins(&resume.dir);
        resume.keep_date(&mut config);
    }
    let components = parts::components(resolved)?;
    best::check_name(&config, &components, None)?;
    let device = open_device(&config)?;
    let place = setup::find_model(&config.model, config.seed)?;
    let encoder = Arc::new(setup::run_encoder(&config, place.dir.as_deref())?);
    // Today's if it was left open: what is trained follows from it.
    config.current_date = encoder.options().render.date.clone();
    let mut data = read_data(&config, &encoder, &place)?;
    if config.enable_channel_loss {
        check_channels(&config, &components, &data)?;
    }
    let lengths = match &data.stream {
        Some(_) => setup::longest(&config, &place.config.architecture),
        None => lengths(&data.train.samples, data.train.packs.as_deref()),
    };
    let optimizer = parts::trial_optimizer(resolved)?;
    if config.dry_run {
        let data = (&mut data, lengths.as_slice());
        dry_run(&config, &place, &device, &encoder, optimizer, data)?;
        return Ok(None);
    }

    let explain = |error| out_of_memory::explain(error, &device, &args(&config));
    let mut ready = parts::model(&config, &place, &device).map_err(explain)?;
    let shape = fit(&config, optimizer, &mut ready.model, &lengths).map_err(explain)?;
    let table = ParameterTable::of(&ready.model);
    info!("{table}");
    let folder = RunFolder::take(&config)?;
    folder.warn_of_other_runs(resume.as_ref().map(|resume| resume.dir.as_path()));
    let args = args(&config);
    let terms = parts::terms(resolved, &args, &place, &ready)?;
    let (kept_layers, about) = (shape.kept_layers as usize, about::model(&table));
    let going_on = (resume, terms);
    let settings =
        parts::loop_settings(&config, folder.path(), kept_layers, args, about, going_on)?;
    signals::catch(screen::restore)?;
    let taken = Taken {
        components,
        stream: data.stream.take(),
        folder,
    };
    let set_up = SetUp {
        config,
        model: ready.model,
        trained: TrainedPart {
            peft: ready.peft,
            config: place.config.raw.clone(),
            model_dir: place.dir.clone(),
        },
        encoder,
        data,
        settings,
        table,
    };
    Ok(Some((set_up, taken)))
}

impl SetUp {
    /// What is trained on: a stream, or what lies in memory.
    pub fn examples(&self, stream: Option<Stream>) -> Examples<'_> {
        let train = &self.data.train;
        match stream {
            Some(stream) => Examples::streamed(stream),
            None => Examples::in_memory(&train.samples, train.packs.as_deref()),
        }
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

/// One process uses one card; a launcher's variable must not change the batch in silence.
fn refuse_many_processes(config: &SftConfig) -> Result<()> {
    let Ok(count) = std::env::var("NPROC_PER_NODE") else {
        return Ok(());
    };
    let processes: usize = count
        .parse()
        .with_context(|| format!("NPROC_PER_NODE is {count:?}"))?;
    if processes > 1 {
        let (size, steps) = (config.per_device_train_batch_size, config.accumulation());
        bail!(
            "NPROC_PER_NODE is {processes}, and this apus trains on one card: the global batch would have \
             been {} (per_device_train_batch_size {size} x gradient_accumulation_steps {steps} x {processes} \
             processes). Unset NPROC_PER_NODE and set gradient_accumulation_steps to {} to keep it",
            size * steps * processes,
            steps * processes
        );
    }
    Ok(())
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
) -> Result<setup::Data> {
    let data = setup::data(config, encoder, Some(place.config.architecture.vocab_size))?;
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
