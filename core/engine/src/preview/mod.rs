//! `apus data`: shows what a run would train on, before it runs.
//!
//! The code that prepares the data is the one that prepares it for a run. No weights are read.

mod html;
mod rows;
mod samples;

use crate::setup::{self, AskedColumns, Chosen, MadeLater};
use crate::train::args::args;
use anyhow::{Context, Result, ensure};
use apus_base::lines::info;
use apus_components::config::{DataConfig, Resolved, SftConfig, load_plugins};
use apus_components::registry;
use apus_data::chat::Encoder;
use apus_data::chat::preview::{MarkStyle, marked};
use apus_data::data::Dataset;
use apus_data::hub;
use apus_model::families::ModelConfig;
use apus_sdk::{Loss, outln};
use console::Term;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Prepares the data of a run and shows it.
pub fn run(resolved: &Resolved<DataConfig>, run: &SftConfig) -> Result<()> {
    let config = &resolved.config;
    load_plugins(&run.plugins)?;
    ensure!(
        !run.streaming,
        "apus data looks at all of the data: leave streaming out, and take some rows with FILE#N"
    );
    hub::prefer(run.use_hf);
    let loss = registry::named::<dyn Loss>(&run.loss_type)?;
    let later = MadeLater::of_data(run)?;
    let mut chosen = Chosen::default();
    chosen.add(&["loss_type"], [&loss]);
    later.add_to(&mut chosen);
    chosen.check(setup::setup_of(args(run)), resolved)?;
    let model = setup::model_word(run);
    let vocabulary = match model.map(|model| model.join("config.json")) {
        Some(file) if file.is_file() => Some(ModelConfig::read(&file)?.architecture.vocab_size),
        _ => None,
    };
    let encoder = Arc::new(setup::run_encoder(run, model)?);
    let started = Instant::now();
    let asked = AskedColumns::of(&loss)?;
    let data = setup::data(run, &encoder, vocabulary, &asked)?;
    let seconds = started.elapsed().as_secs_f64();
    let reports = [&data.train.report, &data.val.report];
    let rows: usize = reports
        .iter()
        .map(|report| report.total(|source| source.rows))
        .sum();
    info!(
        "data: {rows} rows read and prepared in {seconds:.2} s, {:.0} rows/s",
        rows as f64 / seconds.max(1e-9)
    );
    let columns = Term::stdout().size_checked().map(|(_, columns)| columns);
    outln!("{}", data.train.report.to_fit(columns));
    if let Some(channels) = data.train.report.channels().table() {
        outln!("{channels}");
    }
    if !data.val.samples.is_empty() {
        outln!("evaluation\n{}", data.val.report.to_fit(columns));
        if let Some(channels) = data.val.report.channels().table() {
            outln!("{channels}");
        }
    }
    let shown = samples::select(&data.train, config.samples, run.data_seed);
    print(&data.train, &shown, &encoder);
    if let Some(path) = &config.out {
        let path = Path::new(path);
        rows::write(path, &data.train, encoder.tokenizer())
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        outln!("{} rows: {}", data.train.samples.len(), path.display());
    }
    if let Some(path) = &config.html {
        let page = html::page(&data.train, &shown, encoder.tokenizer());
        std::fs::write(path, page).with_context(|| format!("{path}: cannot be written"))?;
        outln!("page: {path}");
    }
    Ok(())
}

fn print(dataset: &Dataset, shown: &[usize], encoder: &Encoder) {
    for &index in shown {
        let text = marked(
            &dataset.samples[index],
            encoder.tokenizer(),
            MarkStyle::of_stdout(),
        );
        outln!("\n--- {}\n{text}", title(dataset, index));
    }
    if !shown.is_empty() {
        outln!();
    }
}

/// `train.jsonl:3, 120 tokens, 45 trained`.
fn title(dataset: &Dataset, index: usize) -> String {
    let sample = &dataset.samples[index];
    format!(
        "{}, {} tokens, {} trained",
        dataset.locations[index],
        sample.len(),
        sample.targets()
    )
}
