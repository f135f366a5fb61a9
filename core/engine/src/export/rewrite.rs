//! Merges an adapter into its base model, or packs the experts of a model.

use super::plan::{Form, Plan};
use super::writer::{Extra, size, write_with};
use super::{apart, base_model, pieces, quantization, target};
use crate::tuners::OpenedAdapter;
use anyhow::{Result, bail, ensure};
use apus_base::wording::counted;
use apus_components::config::{ExpertsForm, ExportConfig, Quantize};
use apus_model::adapter::Squares;
use apus_model::families::ModelConfig;
use apus_model::weights::Directory;
use apus_sdk::errln;
use candle_core::DType;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Writes the merged model. Layers whose experts carry an adapter are written in BF16, or packed again; all other packed experts
/// are copied bit for bit.
pub(super) fn merge(adapter: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let base = base_model(adapter, options)?;
    let config = ModelConfig::read(&base.join("config.json"))?;
    let directory = Directory::open(&base)?;
    let dir = target(options, adapter, "-merged");
    apart(&dir, &base)?;
    let opened = OpenedAdapter::open(adapter, &config)?;
    for note in opened.notes() {
        errln!("note: {note}");
    }
    let merged = opened.for_merging(&directory)?;
    let form = match form(options)? {
        Some(ExpertsForm::Mxfp4) => Form::Packed,
        Some(ExpertsForm::Bf16) => Form::Dense,
        None => Form::AsTheyAre,
    };
    let list = config.tensors();
    let plan = Plan::new((&directory, &list), Some(&merged), form, None)?;
    write(&plan, config.clone(), &dir, options, (&base, adapter))
}

/// The form of all experts that the flags ask for.
pub(super) fn form(options: &ExportConfig) -> Result<Option<ExpertsForm>> {
    match (options.quantize, options.experts_dtype) {
        (Some(Quantize::Mxfp4), Some(ExpertsForm::Bf16)) => bail!(
            "quantize is mxfp4 and experts_dtype is bf16, expected one of them: the first packs experts, the second unpacks them"
        ),
        (Some(Quantize::Mxfp4), _) => Ok(Some(ExpertsForm::Mxfp4)),
        (None, form) => Ok(form),
    }
}

/// Packs or unpacks the experts of the model in a directory and writes everything else in BF16. The result is named after the
/// directory.
pub(super) fn convert(
    model: &Path,
    name: &Path,
    form: ExpertsForm,
    options: &ExportConfig,
) -> Result<PathBuf> {
    let mut config = ModelConfig::read(&model.join("config.json"))?;
    let directory = Directory::open(model)?;
    let dir = target(options, name, &format!("-{}", form.as_str()));
    apart(&dir, model)?;
    let list = config.tensors();
    let (form, found) = match form {
        ExpertsForm::Mxfp4 => (Form::Packed, "has no BF16 experts to pack"),
        ExpertsForm::Bf16 => (Form::Dense, "has no packed experts to unpack"),
    };
    let plan = Plan::new((&directory, &list), None, form, Some(DType::BF16))?;
    ensure!(plan.changes(), "{}: {found}", model.display());
    let key = match config.raw.contains_key("dtype") {
        true => "dtype",
        false => "torch_dtype",
    };
    config.raw.insert(key.to_owned(), json!("bfloat16"));
    write(&plan, config, &dir, options, (model, model))
}

/// Carries a plan out.
fn write(
    plan: &Plan,
    mut config: ModelConfig,
    dir: &Path,
    options: &ExportConfig,
    (copy_from, made_by): (&Path, &Path),
) -> Result<PathBuf> {
    let (dense, all_are_dense) = plan.dense();
    quantization::describe(&mut config, &dense, all_are_dense)?;
    let extra = Extra {
        config: Value::Object(config.raw),
        generation: None,
        copy_from: Some(copy_from),
        made_by: Some(made_by),
    };
    let how = (size(&options.max_shard_size)?, options.exist_ok);
    write_with(dir, &plan.entries, how, &extra, |shards| {
        pieces::write(shards, &plan.pieces, |job, buffer, to| {
            plan.fill(job, buffer, to)
        })
    })?;
    report(plan.source.packed());
    Ok(dir.to_owned())
}

/// Says what packing changed.
pub(super) fn report(packed: Vec<(&str, Squares)>) {
    let (exact, changed): (Vec<_>, Vec<_>) =
        (packed.into_iter()).partition(|(_, sums)| sums.error == 0.0);
    if !exact.is_empty() {
        let matrices = counted(exact.len(), "tensor");
        errln!("packed without an error: {matrices} of experts whose values are those of MXFP4");
    }
    for (name, sums) in changed {
        let share = |of: f64| (sums.error / of.max(f64::MIN_POSITIVE)).sqrt();
        let update = match sums.update > 0.0 {
            true => format!(", {:.2} times what the adapter adds", share(sums.update)),
            false => String::new(),
        };
        let error = share(sums.values);
        errln!("packed {name}: relative error {error:.4}{update}");
    }
}
