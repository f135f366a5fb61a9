//! The datasets that are measured, each by itself.

use super::say;
use crate::generate::{Reference, References};
use crate::setup::{self, AskedColumns, ModelPlace};
use anyhow::{Context, Result, ensure};
use apus_base::lines::warning;
use apus_components::config::SftConfig;
use apus_data::chat::Encoder;
use apus_data::data::progress::Preparing;
use apus_data::data::{self, Dataset, PrepareOptions, SourceOptions, read_sets};

/// A dataset.
pub struct EvalSet {
    /// As it was given.
    pub name: String,
    /// Its rows as tokens.
    pub data: Dataset,
    /// Its rows that are answered; empty if no answers are asked for.
    pub references: Vec<Reference>,
}

/// Reads the datasets: those of `val_dataset`, or else of `dataset`.
///
/// # Errors
/// Files that cannot be read, a dataset without a row that can be measured or, where answers are asked for, answered.
pub fn read(
    config: &SftConfig,
    encoder: &Encoder,
    place: &ModelPlace,
    asks: bool,
    columns: &AskedColumns,
) -> Result<Vec<EvalSet>> {
    let names = match config.val_dataset.is_empty() {
        true => &config.dataset,
        false => &config.val_dataset,
    };
    let formats = setup::formats(
        config.dataset_format.as_ref(),
        config.disable_auto_column_mapping,
        names,
        &config.dataset_options(),
    )?;
    let architecture = &place.config.architecture;
    let options = PrepareOptions {
        max_length: config.max_length,
        truncation: config.truncation_strategy,
        strict: config.strict,
        workers: None,
        vocabulary: Some(architecture.vocab_size),
        keep_empty_answers: config.keep_empty_answers,
        channel_names: config.enable_channel_loss,
        columns: columns.names.clone(),
    };
    let mut sets = Vec::new();
    for name in names {
        let read = read_sets(&SourceOptions {
            val_dataset: vec![name.clone()],
            dataset_options: config.dataset_options(),
            columns: config.columns.clone(),
            ..SourceOptions::default()
        })?;
        for line in read.warnings {
            warning!("{line}");
        }
        let bar = Preparing::start(read.val.len());
        let data = data::prepare(&read.val, &formats, encoder, &options, &|_| bar.one_more())
            .with_context(|| name.to_string())?;
        drop(bar);
        let mut found = References::default();
        if asks {
            let positions = architecture.max_position_embeddings;
            found = References::read(&read.val, &formats, encoder, positions)?;
            if let Some(line) = found.warning() {
                ensure!(!config.strict, "{name}: {line} (strict)");
                warning!("{name}: {line}");
            }
            ensure!(
                !found.rows.is_empty(),
                "{name}: no row can be answered and compared; leave metrics of answers and show_answers out"
            );
        }
        let set = EvalSet {
            name: name.to_string(),
            data,
            references: found.rows,
        };
        say(&set);
        sets.push(set);
    }
    Ok(sets)
}
