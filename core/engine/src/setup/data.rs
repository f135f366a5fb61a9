//! Makes the data of a run from its configuration: prepared at once, or streamed.

use super::AskedColumns;
use anyhow::{Context, Result, bail, ensure};
use apus_base::lines::{info, warning};
use apus_components::config::{DatasetSpec, FLAGS, SftConfig, listed_datasets, values};
use apus_components::registry::Spec;
use apus_components::{plugin, registry};
use apus_data::chat::Encoder;
use apus_data::data::cache::{self, Fingerprint};
use apus_data::data::progress::Preparing;
use apus_data::data::{
    self, Columns, DataCache, Dataset, Formats, Mix, PrepareOptions, Reads, SourceOptions, Stream,
    StreamOptions, read_needed_sets,
};
use apus_model::families::Architecture;
use apus_sdk::{DatasetFormat, Kind, Options};
use std::collections::HashMap;
use std::sync::Arc;

/// The option of a format that accepts columns under several names.
const MAPPING: &str = "auto_column_mapping";

/// All dataset formats, or only one if it is forced, and those that these datasets name. With `exact`, formats that accept
/// columns under several names accept each column only under its own name.
///
/// # Errors
/// No such format, or options that it does not take; the error names the dataset that names it.
pub fn formats<'a>(
    forced: Option<&Spec>,
    exact: bool,
    datasets: impl IntoIterator<Item = &'a DatasetSpec>,
    options: &Options,
) -> Result<Formats> {
    let known = registry::all(Kind::DatasetFormat)?;
    let maps = |name: &str| {
        let entry = known.iter().find(|entry| entry.name == name);
        let mut options = entry.iter().flat_map(|entry| &entry.doc.options);
        options.any(|option| option.name == MAPPING)
    };
    let build = |spec: &Spec| {
        let mut spec = spec.clone();
        if exact && maps(&spec.name) {
            spec.options.insert(MAPPING.to_owned(), false.into());
        }
        registry::build::<dyn DatasetFormat>(&spec)
    };
    let all = known
        .iter()
        .map(|entry| match forced {
            Some(spec) if spec.name == entry.name => Ok((spec.name.clone(), build(spec)?)),
            _ => Ok((entry.name.clone(), build(&Spec::named(&*entry.name))?)),
        })
        .collect::<Result<Vec<_>>>()?;
    let mut formats = Formats::new(all, forced.map(|spec| spec.name.as_str()))?;
    for dataset in datasets {
        let given = data::named::format(dataset.parts()?, options);
        let made = given.and_then(|given| given.map(|spec| Ok((build(&spec)?, spec))).transpose());
        if let Some((format, spec)) = made.with_context(|| format!("dataset `{dataset}`"))? {
            formats.give(&spec, format)?;
        }
    }
    Ok(formats)
}

/// Training and validation set of a run.
pub struct Data {
    /// The training set; empty if it is streamed.
    pub train: Dataset,
    /// For each sample of `train`, the place of its dataset among `dataset_names`.
    pub datasets: Vec<u32>,
    /// The names of the datasets, without what is said of them.
    pub dataset_names: Vec<String>,
    /// The training set as a stream, if it is streamed.
    pub stream: Option<Stream>,
    /// The validation set; may be empty.
    pub val: Dataset,
    /// The rows of `val` if they were split off. They are kept with the run.
    pub split_rows: Option<Vec<data::Record>>,
    /// The rows of `val` if they are to be answered.
    pub asked_rows: Vec<data::Record>,
}

/// Reads and encodes the data of a run, with the columns of rows that its loss asks for.
///
/// # Errors
/// Files that cannot be read, rows that cannot be used, or no rows left.
pub fn data(
    config: &SftConfig,
    encoder: &Arc<Encoder>,
    vocabulary: Option<usize>,
    asked: &AskedColumns,
) -> Result<Data> {
    let mix = mix(config)?;
    let formats = Arc::new(formats(
        config.dataset_format.as_ref(),
        config.disable_auto_column_mapping,
        config.dataset.iter().chain(&config.val_dataset),
        &config.dataset_options(),
    )?);
    // Rows that are split off are kept whole with the run.
    let reads_part = !encoder.scales().reads_rows() && config.split_dataset_ratio == 0.0;
    let reads = reads_part.then_some(Reads {
        formats: &formats,
        others: &asked.names,
    });
    let source = SourceOptions {
        dataset: match config.streaming {
            true => Vec::new(),
            false => config.dataset.clone(),
        },
        dataset_options: config.dataset_options(),
        val_dataset: config.val_dataset.clone(),
        split_dataset_ratio: config.split_dataset_ratio,
        mix: mix.clone().filter(|_| !config.streaming),
        columns: config.columns.clone(),
        dataset_shuffle: config.dataset_shuffle,
        val_dataset_shuffle: false,
        data_seed: config.data_seed,
    };
    let sets = read_needed_sets(&source, reads.as_ref())?;
    if let (true, Some((file, columns))) = (config.strict, sets.left_out.first()) {
        bail!(
            "{file}: not used: {} (strict); take it out of the data, or give it the name of what it is",
            columns.join(", ")
        );
    }
    ensure!(
        config.streaming || !sets.train.is_empty(),
        "split_dataset_ratio {} takes all {} rows of {} for evaluation, none is left to train on",
        config.split_dataset_ratio,
        sets.val.len(),
        listed_datasets(&config.dataset)
    );
    let options = PrepareOptions {
        max_length: config.max_length,
        truncation: config.truncation_strategy,
        strict: config.strict,
        workers: None,
        vocabulary,
        keep_empty_answers: config.keep_empty_answers,
        channel_names: config.enable_channel_loss,
        columns: asked.names.clone(),
    };
    let cache = match config.load_from_cache_file {
        true => Some(data_cache(config, encoder, vocabulary, asked)?),
        false => None,
    };
    let prepare = |records: &[data::Record]| {
        let anew = || {
            let bar = Preparing::start(records.len());
            data::prepare(records, &formats, encoder, &options, &|_| bar.one_more())
        };
        match &cache {
            Some(cache) => cache.get_or(records, anew),
            None => anew(),
        }
    };
    let mut train = match config.streaming {
        true => Dataset::default(),
        false => prepare(&sets.train).context("training data")?,
    };
    if !config.streaming {
        asked.check(&train.samples, &sets.train)?;
    }
    if let (true, Some(max_length)) = (config.packing, config.max_length) {
        train.pack(max_length);
    }
    let mut val = match sets.val.is_empty() {
        true => Dataset::default(),
        false => prepare(&sets.val).context("validation data")?,
    };
    for dataset in [&mut train, &mut val] {
        dataset.report.order(&sets.files);
        dataset.report.count_left_out(&sets.left_out);
    }
    for line in formats
        .absent_columns()
        .iter()
        .filter(|_| !config.streaming)
    {
        warning!("{line}");
    }
    // Whether a scale matches is asked of what is trained.
    val.report.unmatched_scales.clear();
    // Columns of a stream are not known yet.
    let of_columns = sets.warnings.into_iter().filter(|_| !config.streaming);
    let mut unused = Columns::new(&config.columns)?.unused_warnings(&train.report);
    for dataset in &config.dataset {
        let own = Columns::new(&dataset.parts()?.columns)?;
        unused.extend(own.unused_warnings(&train.report));
    }
    for line in of_columns
        .chain(unused)
        .chain(train.report.warnings())
        .chain(val.report.warnings())
    {
        warning!("{line}");
    }
    let mut of_rows = train.report.row_notes;
    of_rows += val.report.row_notes;
    let texts = encoder.dialect().row_notes();
    let notes = [
        of_rows.notes(texts),
        train.report.untold_notes(),
        val.report.untold_notes(),
    ];
    for note in notes.concat() {
        info!("data: {note}");
    }
    if let Some(line) = of_rows.warning(texts) {
        warning!("{line}");
    }
    let stream = StreamOptions {
        dataset: config.dataset.clone(),
        dataset_options: config.dataset_options(),
        mix,
        columns: config.columns.clone(),
        shuffle_buffer: config.dataset_shuffle.then_some(config.shuffle_buffer_size),
        data_seed: config.data_seed,
        packing: config.max_length.filter(|_| config.packing),
        prepare: options,
    };
    let open = || {
        let warn = |line: &str| warning!("{line}");
        let mut stream = Stream::open(stream, formats, Arc::clone(encoder), Box::new(warn))?;
        // What is wrong with the first rows is better known before the model is loaded.
        let first = stream.peek().context("training data")?;
        for line in asked.warnings(first) {
            warning!("{line}");
        }
        Ok::<_, anyhow::Error>(stream)
    };
    let asked_rows = match config.predict_with_generate {
        true => sets.val.clone(),
        false => Vec::new(),
    };
    let of_file: HashMap<&str, usize> = sets
        .datasets
        .iter()
        .rev()
        .map(|(file, place)| (&**file, *place))
        .collect();
    let of_record = |record: &usize| of_file.get(&*sets.train[*record].source);
    let datasets = train.records.iter();
    let datasets = datasets.map(|record| of_record(record).map_or(u32::MAX, |&place| place as u32));
    let names = config.dataset.iter().map(|spec| Ok(spec.parts()?.name));
    Ok(Data {
        datasets: datasets.collect(),
        dataset_names: names.collect::<Result<_>>()?,
        train,
        stream: config.streaming.then(open).transpose()?,
        val,
        split_rows: sets.val_is_split.then_some(sets.val),
        asked_rows,
    })
}

/// The cache of prepared data. Its key contains everything that the prepared data depends on.
fn data_cache(
    config: &SftConfig,
    encoder: &Encoder,
    vocabulary: Option<usize>,
    asked: &AskedColumns,
) -> Result<DataCache> {
    let options = values(config);
    let flags = FLAGS.iter().filter(|flag| flag.shapes_rows());
    let flags = flags.map(|flag| (flag.name, &options[flag.name]));
    let mut settings = Fingerprint::new();
    settings.flags(flags)?;
    let dialect = encoder.dialect().name();
    settings.text(&format!("{dialect} {:?} {vocabulary:?}", encoder.options()));
    settings.text(&serde_json::to_string(&plugin::records())?);
    if !asked.names.is_empty() {
        settings.text(&format!("columns of rows {:?}", asked.names));
    }
    if let Some(folder) = encoder.folder() {
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ] {
            settings.file(&folder.join(name))?;
        }
    }
    Ok(DataCache::new(cache::folder()?, settings))
}

fn mix(config: &SftConfig) -> Result<Option<Mix>> {
    if config.interleave_prob.is_empty() {
        return Ok(None);
    }
    Ok(Some(Mix {
        probabilities: config.interleave_prob.clone(),
        stopping: config.stopping_strategy,
    }))
}

/// The lengths of a stream's examples for the memory plan. They are unknown, so the plan assumes the longest ones.
pub fn longest(config: &SftConfig, architecture: &Architecture) -> Vec<usize> {
    let longest = config
        .max_length
        .unwrap_or(architecture.max_position_embeddings);
    vec![longest; config.per_device_train_batch_size]
}
