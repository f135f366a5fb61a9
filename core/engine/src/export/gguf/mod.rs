//! Writes a model as one GGUF file, the format of llama.cpp and of what is built on it.
//!
//! The values are those of the merged directory that Apus would write: BF16 matrices widened to F32 where F32 is asked for, and experts
//! in MXFP4 with their bits in another order (`blocks`). llama.cpp rounds the bounds of YaRN's ramp to whole dimensions, which gpt-oss
//! does not; no file can say so.

mod blocks;
mod header;
mod metadata;
mod names;
mod plan;
#[cfg(test)]
mod tests;
mod vocabulary;

use super::shards::Shards;
use super::source::Source;
use super::whole::{self, Output};
use super::{base_model, pieces, rewrite, target};
use crate::tuners::OpenedAdapter;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{ExportConfig, GgufType};
use apus_components::plugin;
use apus_model::adapter::Adapter;
use apus_model::families::{Gguf, ModelConfig};
use apus_model::weights::Directory;
use apus_sdk::errln;
use plan::Plan;
use std::path::{Path, PathBuf};

/// Writes the file, of a model alone or with the adapter merged in, and returns its folder.
pub(super) fn write(options: &ExportConfig) -> Result<PathBuf> {
    ensure!(
        !options.to_vllm && rewrite::form(options)?.is_none(),
        "to_gguf is true, and outtype says what its file holds: leave to_vllm, quantize and experts_dtype out"
    );
    let adapter = match options.adapters.as_slice() {
        [] => None,
        [adapter] => Some(Path::new(adapter)),
        more => bail!(
            "--to_gguf takes one --adapters folder, found {}",
            more.len()
        ),
    };
    let (base, from) = match adapter {
        Some(adapter) => (base_model(adapter, options)?, adapter.to_owned()),
        None => super::model(options)?,
    };
    let config = ModelConfig::read(&base.join("config.json"))?;
    let known = known(&config).with_context(|| base.display().to_string())?;
    let directory = Directory::open(&base)?;
    let dir = target(options, &from, "-gguf");
    ensure!(
        dir.extension().is_none_or(|end| end != "gguf"),
        "output_dir is {}, a folder, in which the file gets its name by itself: leave .gguf out",
        dir.display()
    );
    super::apart(&dir, &base)?;
    super::apart(&dir, &from)?;
    let merged = adapter
        .map(|path| opened(path, &config, &directory))
        .transpose()?;
    let list = config.tensors();
    let source = Source::new(&directory, &list, merged.as_ref());
    let plan = Plan::new(&source, options.outtype.unwrap_or(GgufType::Auto))?;
    let name = name(&from)?;
    let mut facts = metadata::facts(&config, known, (&name, plan.most()))?;
    let vocabulary = vocabulary::facts(&base, &config.raw, config.architecture.vocab_size)?;
    facts.extend(vocabulary);
    let file = format!("{name}-{}.gguf", plan.most().name());
    let (entries, layout) = header::layout(&file, &facts, &plan.tensors)?;
    let output = Output {
        dir: &dir,
        replace: options.exist_ok,
        kind: "a GGUF export",
        holds: &|name| name.ends_with(".gguf"),
        bytes: layout.size(),
    };
    whole::write(&output, |temporary| {
        let shards = Shards::create(temporary, &entries, &layout)?;
        pieces::write(&shards, &plan.pieces, |job, buffer, to| {
            plan.fill(job, buffer, to)
        })?;
        shards.finish()
    })?;
    rewrite::report(source.packed());
    errln!("llama-server -m {}", dir.join(file).display());
    Ok(dir)
}

/// How llama.cpp knows a model.
///
/// # Errors
/// It does not, or computes it otherwise.
fn known(config: &ModelConfig) -> Result<&'static Gguf> {
    let family = config.family;
    let known = family.gguf.as_ref().with_context(|| {
        format!(
            "model_type is {}, of which no GGUF is written here; export a directory, and convert it with llama.cpp's convert_hf_to_gguf.py",
            family.model_type
        )
    })?;
    (known.check)(&config.architecture)?;
    Ok(known)
}

pub(super) fn opened(path: &Path, config: &ModelConfig, base: &Directory) -> Result<Adapter> {
    for line in plugin::compare(path) {
        errln!("note: {line}");
    }
    let adapter = OpenedAdapter::open(path, config)?;
    for note in adapter.notes() {
        errln!("note: {note}");
    }
    adapter.for_merging(base)
}

/// The name of a model: that of its folder.
fn name(from: &Path) -> Result<String> {
    let whole = from.canonicalize().unwrap_or_else(|_| from.to_owned());
    let name = whole
        .file_name()
        .context("the model's folder has no name")?;
    Ok(name.to_string_lossy().into_owned())
}
