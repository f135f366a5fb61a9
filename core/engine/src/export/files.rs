//! Exports by components: an exporter reads the tensors that a plan would write, and its files become a folder.

use super::finite::bad_elements;
use super::gguf::opened;
use super::layout::Entry;
use super::plan::{Form, Plan};
use super::whole::{self, Output};
use super::{base_model, quantization, rewrite, target};
use crate::host;
use anyhow::{Context, Result, ensure};
use apus_components::config::{ExpertsForm, ExportConfig};
use apus_components::registry::Named;
use apus_model::families::ModelConfig;
use apus_model::weights::Directory;
use apus_sdk::private::ExportAbout;
use apus_sdk::{Error, ExportModel, ExportTensor, Exporter, TensorSource};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What an export by a component says of itself; only a folder with it is ever replaced.
const RECORD: &str = "export.json";

/// Exports a model, with the adapter merged in if there is one, and returns the folder.
pub(super) fn write(exporter: &Named<dyn Exporter>, options: &ExportConfig) -> Result<PathBuf> {
    let adapter = match options.adapters.as_slice() {
        [] => None,
        [adapter] => Some(Path::new(adapter)),
        more => anyhow::bail!("--to takes one --adapters folder, found {}", more.len()),
    };
    let (base, from) = match adapter {
        Some(adapter) => (base_model(adapter, options)?, adapter.to_owned()),
        None => super::model(options)?,
    };
    let mut config = ModelConfig::read(&base.join("config.json"))?;
    let directory = Directory::open(&base)?;
    let dir = target(options, &from, &format!("-{}", exporter.name));
    super::apart(&dir, &base)?;
    super::apart(&dir, &from)?;
    let merged = adapter
        .map(|path| opened(path, &config, &directory))
        .transpose()?;
    let form = match rewrite::form(options)? {
        Some(ExpertsForm::Mxfp4) => Form::Packed,
        Some(ExpertsForm::Bf16) => Form::Dense,
        None => Form::AsTheyAre,
    };
    let list = config.tensors();
    let plan = Plan::new((&directory, &list), merged.as_ref(), form, None)?;
    let (dense, all_are_dense) = plan.dense();
    quantization::describe(&mut config, &dense, all_are_dense)?;
    let whole = from.canonicalize().unwrap_or_else(|_| from.clone());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let record = dir.join(RECORD);
    let before = fs::read(&record).ok().and_then(|text| {
        let record: Value = serde_json::from_slice(&text).ok()?;
        serde_json::from_value::<Vec<String>>(record["files"].clone()).ok()
    });
    let before = before.unwrap_or_default();
    let output = Output {
        dir: &dir,
        replace: options.exist_ok,
        kind: "an export that has been written before",
        holds: &|file| file == RECORD || before.iter().any(|known| known == file),
        bytes: 0,
    };
    whole::write(&output, |temporary| {
        let about = ExportAbout {
            name: name.clone().into_owned(),
            folder: std::path::absolute(temporary)?,
            base: std::path::absolute(&base)?,
            config: Value::Object(config.raw.clone()),
            tensors: plan.entries.iter().map(described).collect(),
        };
        let pieces = Pieces::new(&plan);
        let model = ExportModel::new(&about, &pieces);
        exporter.context("export", exporter.component.export(&model))?;
        let files =
            written(temporary).with_context(|| format!("{}, export: its files", exporter.label))?;
        let record = json!({"exporter": exporter.label, "model": name, "files": files});
        fs::write(
            temporary.join(RECORD),
            serde_json::to_string_pretty(&record)?,
        )?;
        Ok(())
    })?;
    rewrite::report(plan.source.packed());
    Ok(dir)
}

/// The files of a folder that an exporter has filled.
fn written(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(
            entry.file_type()?.is_file(),
            "{name} is no file, expected files alone"
        );
        ensure!(name != RECORD, "{name} is written by Apus itself");
        files.push(name);
    }
    ensure!(!files.is_empty(), "there is none");
    files.sort();
    Ok(files)
}

fn described(entry: &Entry) -> ExportTensor {
    let dtype = format!("{:?}", entry.dtype);
    ExportTensor::new(&entry.name, &entry.shape, &dtype, entry.bytes() as u64)
}

/// The tensors of a plan, read through its pieces. The piece that was read last is kept, so that whoever reads a tensor in small parts
/// has each piece computed once.
struct Pieces<'p, 'a> {
    plan: &'p Plan<'a>,
    /// For each tensor its pieces: where in the tensor one begins and ends, which it is, and which of its places.
    places: Vec<Vec<(std::ops::Range<usize>, usize, usize)>>,
    last: Mutex<Option<(usize, Vec<Vec<u8>>)>>,
}

impl<'p, 'a> Pieces<'p, 'a> {
    fn new(plan: &'p Plan<'a>) -> Self {
        let mut places = vec![Vec::new(); plan.entries.len()];
        for (number, piece) in plan.pieces.iter().enumerate() {
            for (place, (entry, range)) in piece.places.iter().enumerate() {
                places[*entry].push((range.clone(), number, place));
            }
        }
        Self {
            plan,
            places,
            last: Mutex::default(),
        }
    }

    fn copy(&self, tensor: usize, offset: usize, to: &mut [u8]) -> Result<()> {
        let places = self.places.get(tensor).context("no such tensor")?;
        let end = offset + to.len();
        let mut copied = 0;
        for (range, number, place) in places {
            let (from, until) = (range.start.max(offset), range.end.min(end));
            if from >= until {
                continue;
            }
            self.with(*number, |rooms| {
                let piece = &rooms[*place][from - range.start..until - range.start];
                to[from - offset..until - offset].copy_from_slice(piece);
            })?;
            copied += until - from;
        }
        ensure!(
            copied == to.len(),
            "{} bytes from {offset} on were asked for, it has fewer",
            to.len()
        );
        Ok(())
    }

    /// Calls with the bytes of a piece, for each of its places.
    fn with(&self, number: usize, act: impl FnOnce(&[Vec<u8>])) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, rooms)) = &*last
            && *kept == number
        {
            act(rooms);
            return Ok(());
        }
        let piece = &self.plan.pieces[number];
        let mut rooms: Vec<Vec<u8>> = (piece.places.iter())
            .map(|(_, range)| vec![0; range.len()])
            .collect();
        let mut slices: Vec<&mut [u8]> = rooms.iter_mut().map(Vec::as_mut_slice).collect();
        self.plan.fill(&piece.job, &mut Vec::new(), &mut slices)?;
        for ((entry, _), room) in piece.places.iter().zip(&rooms) {
            let entry = &self.plan.entries[*entry];
            let bad = bad_elements(room, entry.dtype);
            ensure!(
                bad == 0,
                "tensor {}: {bad} of its values are not finite",
                entry.name
            );
        }
        act(&rooms);
        *last = Some((number, rooms));
        Ok(())
    }

    fn whole(&self, tensor: usize) -> Result<Tensor> {
        let entry = self.plan.entries.get(tensor).context("no such tensor")?;
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            other => anyhow::bail!(
                "type {other:?} has no floats that a tensor could hold; its bytes can be read"
            ),
        };
        let mut bytes = vec![0; entry.bytes()];
        self.copy(tensor, 0, &mut bytes)?;
        Ok(Tensor::from_raw_buffer(
            &bytes,
            dtype,
            &entry.shape,
            &Device::Cpu,
        )?)
    }

    fn named<T>(&self, tensor: usize, result: Result<T>) -> apus_sdk::Result<T> {
        let name = self
            .plan
            .entries
            .get(tensor)
            .map_or("?", |entry| &entry.name);
        result.map_err(|error| Error::new(format!("{name}: {error:#}")))
    }
}

impl TensorSource for Pieces<'_, '_> {
    fn read(&self, tensor: usize, offset: u64, to: &mut [u8]) -> apus_sdk::Result<()> {
        self.named(tensor, self.copy(tensor, offset as usize, to))
    }

    fn tensor(&self, tensor: usize) -> apus_sdk::Result<apus_sdk::Tensor> {
        self.named(tensor, self.whole(tensor)).map(host::wrap)
    }
}
