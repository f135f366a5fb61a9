//! `apus model new`: writes a checkpoint of random weights.

use crate::export::writer::{Entry, Extra, size, write_model};
use anyhow::{Context, Result, ensure};
use apus_components::config::ModelNewConfig;
use apus_data::hub::Hub;
use apus_model::ops::fill;
use apus_model::synthetic::{Filling, SyntheticWeights, config, generation, set_format};
use apus_model::tensors::FileForm;
use apus_model::weights::WeightSource;
use candle_core::{DType, Device};
use safetensors::Dtype;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Writes the checkpoint and returns its folder.
pub fn model_new(options: &ModelNewConfig) -> Result<PathBuf> {
    let mut config = config(&options.arch)?;
    set_format(&mut config, options.format.as_str())?;
    let dir = PathBuf::from(
        options
            .output_dir
            .as_ref()
            .context("--out is missing: the folder to write")?,
    );
    let source = SyntheticWeights::new(&config, options.seed);
    let entries = entries(&source);
    let tokenizer = match &options.tokenizer {
        Some(word) => Some(Hub::from_environment().tokenizer(Path::new(word))?),
        None => None,
    };
    if let Some(dir) = &tokenizer {
        ensure!(
            dir.join("tokenizer.json").is_file(),
            "tokenizer {}: holds no tokenizer.json",
            dir.display()
        );
    }
    let extra = Extra {
        config: Value::Object(config.raw.clone()),
        generation: Some(generation(&config)),
        copy_from: tokenizer.as_deref(),
        made_by: None,
    };
    write_model(
        &dir,
        &entries,
        size("5GB")?,
        false,
        &extra,
        |entry| match source.filling(&entry.name)? {
            Filling::Bytes | Filling::Byte(_) => {
                let tensor = source.tensor(&entry.name, &entry.shape, DType::U8, &Device::Cpu)?;
                Ok(tensor.flatten_all()?.to_vec1::<u8>()?)
            }
            Filling::Ones => Ok([0x80, 0x3f].repeat(entry.elements())),
            Filling::Normal(std) => {
                let key = (options.seed, fill::stream(&entry.name));
                let values = fill::normal_f32(entry.elements(), key.0, key.1, std);
                Ok(crate::export::writer::bf16_bytes(&values))
            }
        },
    )?;
    Ok(dir)
}

/// All tensors of a model's files, in the order of its layers.
fn entries(source: &SyntheticWeights) -> Vec<Entry> {
    let tensors = source.list().in_order_of_use().into_iter();
    let tensors = tensors.flat_map(|spec| spec.in_file(source.packed));
    let entries = tensors.map(|tensor| Entry {
        name: tensor.name,
        dtype: match tensor.form {
            FileForm::Plain => Dtype::BF16,
            FileForm::Blocks | FileForm::Scales => Dtype::U8,
        },
        shape: tensor.shape,
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_components::config::ExpertsForm;
    use apus_model::families::ModelConfig;
    use apus_model::weights::Directory;

    #[test]
    fn a_written_model_holds_the_numbers_of_the_one_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let arch = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/tiny/model_mxfp4/config.json"
        );
        for format in [ExpertsForm::Mxfp4, ExpertsForm::Bf16] {
            let out = dir.path().join(format.as_str());
            let options = ModelNewConfig {
                arch: arch.to_owned(),
                format,
                seed: 7,
                tokenizer: None,
                output_dir: Some(out.display().to_string()),
            };
            model_new(&options).unwrap();
            let config = ModelConfig::read(&out.join("config.json")).unwrap();
            let source = SyntheticWeights::new(&config, 7);
            let written = Directory::open(&out).unwrap();
            assert_eq!(source.packed, format == ExpertsForm::Mxfp4);
            for entry in entries(&source) {
                let dtype = if entry.dtype == Dtype::U8 {
                    DType::U8
                } else {
                    DType::F32
                };
                let read = |source: &dyn WeightSource| {
                    let t = source
                        .tensor(&entry.name, &entry.shape, dtype, &Device::Cpu)
                        .unwrap();
                    t.flatten_all()
                        .unwrap()
                        .to_dtype(DType::F32)
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap()
                };
                assert_eq!(read(&source), read(&written), "{}", entry.name);
            }
        }
    }
}
