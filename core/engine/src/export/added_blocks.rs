//! A model with more layers (LLaMA Pro, <https://arxiv.org/abs/2401.02415>, as ms-swift's `tuners/llamapro.py`): after each of so many
//! equal groups of layers stands a copy of its last one whose projections back to the residual stream are zero. It computes what the
//! model did, until the copies are trained.

use super::layout::Entry;
use super::pieces::{self, PART, Piece};
use super::writer::{Extra, size, write_with};
use super::{apart, target};
use anyhow::{Context, Result, ensure};
use apus_components::config::ExportConfig;
use apus_model::families::{LayerSpec, ModelConfig};
use apus_model::tensors::TensorList;
use apus_model::weights::Directory;
use apus_sdk::errln;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Where the layers of a model are in the deeper one.
struct Places {
    /// The number of layers before each copy.
    stride: usize,
}

/// What gives the bytes of a piece.
enum Job<'a> {
    /// The bytes of a tensor from this one on.
    Copy(&'a str, usize),
    Zeros,
}

/// Writes the deeper model, and says how the new layers are trained alone.
///
/// # Errors
/// A number of blocks that does not divide that of the layers, or the disk.
pub(super) fn write(blocks: usize, options: &ExportConfig) -> Result<PathBuf> {
    ensure!(
        options.adapters.is_empty(),
        "--adapters is given, and blocks are added to a model: merge the adapter first (--merge_lora true)"
    );
    let (base, name) = super::model(options)?;
    let mut config = ModelConfig::read(&base.join("config.json"))?;
    let directory = Directory::open(&base)?;
    let layers = config.architecture.layers.len();
    ensure!(
        blocks > 0 && layers.is_multiple_of(blocks),
        "{blocks} blocks are to be added, and the model has {layers} layers: expected a number that divides them"
    );
    let dir = target(options, &name, &format!("-plus{blocks}"));
    apart(&dir, &base)?;
    let places = Places {
        stride: layers / blocks,
    };
    let list = config.tensors();
    let (entries, pieces) = places.plan(&directory, &list)?;
    let deeper: Vec<LayerSpec> = (0..layers)
        .flat_map(|layer| vec![layer; 1 + usize::from(places.copy(layer).is_some())])
        .map(|layer| config.architecture.layers[layer].clone())
        .collect();
    describe(&mut config.raw, &deeper, &places, &list)?;
    let read = ModelConfig::parse(Value::Object(config.raw.clone()))?;
    ensure!(
        read.architecture.layers == deeper,
        "config.json of {} has something that depends on the number of a layer, which added blocks would change",
        base.display()
    );
    let extra = Extra {
        config: Value::Object(config.raw),
        generation: None,
        copy_from: Some(&base),
        made_by: Some(&base),
    };
    let how = (size(&options.max_shard_size)?, options.exist_ok);
    write_with(&dir, &entries, how, &extra, |shards| {
        pieces::write(shards, &pieces, |job, _, to| match job {
            Job::Copy(name, at) => {
                let to = to.first_mut().context("a part has a place")?;
                directory.stored(name)?.read(*at, to)
            }
            Job::Zeros => {
                to.iter_mut().for_each(|to| to.fill(0));
                Ok(())
            }
        })
    })?;
    let new = (0..layers).filter_map(|layer| places.copy(layer));
    let new: Vec<String> = new.map(|layer| format!("layers.{layer}")).collect();
    errln!(
        "the new blocks alone are trained by: apus sft --model {} --target_modules none --modules_to_save {} ...",
        dir.display(),
        new.join(" ")
    );
    if deeper.iter().any(|layer| layer.attention.window.is_some()) {
        errln!(
            "note: config.json says which layers have a sliding window; transformers reads it, while vLLM and llama.cpp take \
             every other layer for one and would compute something else"
        );
    }
    Ok(dir)
}

impl Places {
    /// The number of a layer in the deeper model.
    fn of(&self, layer: usize) -> usize {
        layer + layer / self.stride
    }

    /// The number of the copy of a layer, if it is the last of its group.
    fn copy(&self, layer: usize) -> Option<usize> {
        (layer + 1)
            .is_multiple_of(self.stride)
            .then(|| self.of(layer) + 1)
    }

    /// A name below a layer as it is below another one.
    fn renamed(list: &TensorList, name: &str, layer: usize, to: usize) -> Option<String> {
        let path = list.layer_paths().get(layer)?;
        let (parent, _) = path.rsplit_once('.')?;
        Some(format!(
            "{parent}.{to}{}",
            name.strip_prefix(path.as_str())?
        ))
    }

    fn plan<'a>(
        &self,
        directory: &'a Directory,
        list: &TensorList,
    ) -> Result<(Vec<Entry>, Vec<Piece<Job<'a>>>)> {
        let (mut entries, mut pieces) = (Vec::new(), Vec::new());
        for name in directory.names() {
            let stored = directory.stored(name)?;
            let mut add = |named: String, zeros: bool| {
                let number = entries.len();
                entries.push(Entry {
                    name: named,
                    dtype: stored.dtype(),
                    shape: stored.shape().to_vec(),
                });
                for at in (0..stored.size()).step_by(PART) {
                    pieces.push(Piece {
                        job: match zeros {
                            true => Job::Zeros,
                            false => Job::Copy(name, at),
                        },
                        places: vec![(number, at..stored.size().min(at + PART))],
                        besides: 0,
                    });
                }
            };
            let Some(layer) = list.layer_of(name) else {
                add(name.to_owned(), false);
                continue;
            };
            let to = |layer_there| {
                let named = Self::renamed(list, name, layer, layer_there);
                named.with_context(|| format!("{name} is in no layer"))
            };
            add(to(self.of(layer))?, false);
            if let Some(copy) = self.copy(layer) {
                let role = list.of_file(name).map(|(spec, _)| spec.role);
                add(to(copy)?, role.is_some_and(|role| role.writes_residual()));
            }
        }
        Ok((entries, pieces))
    }
}

/// Makes config.json that of the deeper model.
fn describe(
    raw: &mut Map<String, Value>,
    deeper: &[LayerSpec],
    places: &Places,
    list: &TensorList,
) -> Result<()> {
    raw.insert("num_hidden_layers".to_owned(), json!(deeper.len()));
    let windows = || deeper.iter().map(|layer| layer.attention.window);
    if raw.contains_key("layer_types") || windows().any(|window| window.is_some()) {
        let kinds = windows().map(|window| match window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        });
        raw.insert("layer_types".to_owned(), json!(kinds.collect::<Vec<_>>()));
    }
    let plain = raw
        .get_mut("quantization_config")
        .and_then(|quantization| quantization.get_mut("modules_to_not_convert"))
        .and_then(Value::as_array_mut);
    let Some(plain) = plain else {
        return Ok(());
    };
    let mut renamed = Vec::new();
    for name in plain.drain(..) {
        let layer = name.as_str().and_then(|name| list.layer_of(name));
        match (name.as_str(), layer) {
            (Some(text), Some(layer)) => {
                let all = [Some(places.of(layer)), places.copy(layer)];
                let all = all.into_iter().flatten();
                let named = |to| Places::renamed(list, text, layer, to);
                renamed.extend(all.filter_map(named).map(Value::from));
            }
            _ => renamed.push(name),
        }
    }
    *plain = renamed;
    Ok(())
}
