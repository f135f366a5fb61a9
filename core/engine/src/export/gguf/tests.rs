//! Files are read back by candle, and by a few lines of our own where it has no MXFP4.

use super::super::gguf;
use super::super::tests::{bytes, golden, merge_options, run, unpacked};
use super::blocks;
use anyhow::{Context, Result};
use apus_components::config::{ExpertsForm, ExportConfig, GgufType, Quantize};
use apus_model::families::{Family, ModelConfig, decoder};
use apus_model::tensors::{Part, Role, TensorSpec};
use apus_model::weights::{Directory, WeightSource};
use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor of a file: its number of a type, its dimensions, innermost first, its bytes.
struct Found {
    kind: u32,
    dims: Vec<u64>,
    bytes: Vec<u8>,
}

/// Reads what lies behind the facts of a file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number<const WIDTH: usize>(&mut self) -> [u8; WIDTH] {
        self.at += WIDTH;
        self.file[self.at - WIDTH..self.at].try_into().unwrap()
    }

    fn small(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    fn count(&mut self) -> usize {
        u64::from_le_bytes(self.number()) as usize
    }

    fn text(&mut self) -> String {
        let length = self.count();
        self.at += length;
        String::from_utf8(self.file[self.at - length..self.at].to_vec()).unwrap()
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            7 => self.at += 1,
            4..=6 => self.at += 4,
            8 => drop(self.text()),
            9 => {
                let kind = self.small();
                (0..self.count()).for_each(|_| self.skip(kind));
            }
            other => panic!("type {other}"),
        }
    }

    fn tensors(&mut self) -> BTreeMap<String, Found> {
        assert_eq!(&self.number::<4>(), b"GGUF");
        assert_eq!(self.small(), 3);
        let (tensors, facts) = (self.count(), self.count());
        for _ in 0..facts {
            let _key = self.text();
            let kind = self.small();
            self.skip(kind);
        }
        let infos: Vec<_> = (0..tensors)
            .map(|_| {
                let (name, dims) = (self.text(), self.small());
                let dims: Vec<u64> = (0..dims).map(|_| self.count() as u64).collect();
                (name, dims, self.small(), self.count())
            })
            .collect();
        let begin = self.at.next_multiple_of(32);
        let mut end = 0;
        let mut found = BTreeMap::new();
        for (name, dims, kind, at) in infos {
            let values = dims.iter().product::<u64>() as usize;
            let size = match kind {
                0 => values * 4,
                30 => values * 2,
                39 => values / 32 * 17,
                other => panic!("{name}: type {other}"),
            };
            // One behind another, each at a multiple of 32.
            assert_eq!(at, end, "{name}");
            end = (at + size).next_multiple_of(32);
            let bytes = self.file[begin + at..][..size].to_vec();
            found.insert(name, Found { kind, dims, bytes });
        }
        assert_eq!(begin + end, self.file.len());
        found
    }
}

fn options(model: &Path, outtype: GgufType, out: &Path) -> ExportConfig {
    ExportConfig {
        model: Some(model.display().to_string()),
        to_gguf: true,
        outtype: Some(outtype),
        output_dir: Some(out.display().to_string()),
        ..Default::default()
    }
}

/// The one file of an export.
fn file(dir: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn tensors(dir: &Path) -> BTreeMap<String, Found> {
    let file = fs::read(file(dir)).unwrap();
    Reader { file: &file, at: 0 }.tensors()
}

fn f32_bytes(tensor: &Tensor) -> Vec<u8> {
    let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let values = values.to_vec1::<f32>().unwrap();
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Every second output of the last dimension, or of the last but one.
fn half(tensor: &Tensor, dim: usize, second: usize) -> Tensor {
    let outputs: Vec<u32> = (0..tensor.dim(dim).unwrap() as u32)
        .skip(second)
        .step_by(2)
        .collect();
    let outputs = Tensor::new(outputs, &Device::Cpu).unwrap();
    tensor.index_select(&outputs, dim).unwrap()
}

/// What a directory of dense tensors holds, by llama.cpp's names, by plain operations on whole tensors.
fn expected(directory: &Directory, list: &[&TensorSpec]) -> BTreeMap<String, Tensor> {
    let mut expected = BTreeMap::new();
    for spec in list {
        let read = |name: &str| directory.tensor(name, &spec.shape, DType::F32, &Device::Cpu);
        let value = match spec.packed().is_some() && directory.is_packed(spec) {
            true => unpacked(directory, spec),
            false => read(&spec.name).unwrap(),
        };
        let value = match spec.shape.len() {
            3 => value.transpose(1, 2).unwrap().contiguous().unwrap(),
            _ => value,
        };
        let names = super::names::names(spec).unwrap();
        match names.as_slice() {
            [gate, up] => {
                expected.insert(gate.clone(), half(&value, 1, 0));
                expected.insert(up.clone(), half(&value, 1, 1));
            }
            [name] => drop(expected.insert(name.clone(), value)),
            _ => unreachable!(),
        }
    }
    expected
}

/// The file of each kind, of a model and of one with an adapter, has the values of the directory that is exported otherwise.
#[test]
fn a_file_has_the_values_of_the_directory() -> Result<()> {
    let parent = tempfile::tempdir()?;
    // Layers of either form in one model.
    let mixed = parent.path().join("mixed");
    let adapter = golden("adapter_grad_attn_experts");
    run(&merge_options("model_mxfp4", &adapter, &mixed))?;
    let models = [golden("model_mxfp4"), golden("model_bf16"), mixed];
    let adapters = [None, Some("attn_experts"), Some("attn_dora")];
    let all = models.iter().flat_map(|model| adapters.map(|a| (model, a)));
    for (model, adapter) in all {
        let merged = adapter.is_some();
        let adapter = golden(&format!("adapter_grad_{}", adapter.unwrap_or_default()));
        for outtype in [
            GgufType::Auto,
            GgufType::F32,
            GgufType::Bf16,
            GgufType::Mxfp4,
        ] {
            let at = format!("{} {} {outtype}", model.display(), adapter.display());
            let [directory, out] = ["directory", "out"].map(|name| parent.path().join(name));
            let mut to_directory = merge_options("", &adapter, &directory);
            to_directory.model = Some(model.display().to_string());
            match outtype {
                GgufType::Auto => {}
                GgufType::Mxfp4 => to_directory.quantize = Some(Quantize::Mxfp4),
                _ => to_directory.experts_dtype = Some(ExpertsForm::Bf16),
            }
            let mut to_file = options(model, outtype, &out);
            to_file.exist_ok = true;
            if merged {
                to_file.adapters = vec![adapter.display().to_string()];
            } else {
                (to_directory.merge_lora, to_directory.adapters) = (false, Vec::new());
            }
            to_directory.exist_ok = true;
            // A model that has that form already is what it would be.
            let there = match run(&to_directory) {
                Ok(written) => written,
                Err(_) if !merged => model.clone(),
                Err(error) => return Err(error),
            };
            run(&to_file)?;
            let config = ModelConfig::read(&there.join("config.json"))?;
            let list = config.tensors();
            let read = Directory::open(&there)?;
            let expected = expected(&read, &list.iter().collect::<Vec<_>>());
            let found = tensors(&out);
            assert!(found.keys().eq(expected.keys()), "{at}");
            // Nothing else is packed than in the directory, in a file that has packed experts.
            let may_pack = matches!(outtype, GgufType::Auto | GgufType::Mxfp4);
            let packed = list.iter().filter(|spec| read.is_packed(spec) && may_pack);
            let packed: Vec<&TensorSpec> = packed.collect();
            let blocks = packed
                .iter()
                .flat_map(|spec| super::names::names(spec).unwrap());
            let blocks: Vec<String> = blocks.collect();
            for (name, expected) in &expected {
                let found = &found[name];
                let dims: Vec<u64> = expected.dims().iter().rev().map(|d| *d as u64).collect();
                assert_eq!(found.dims, dims, "{at} {name}");
                let of_experts = name.contains("_exps.weight");
                let wide = !of_experts && (name.contains("_norm") || !name.ends_with(".weight"))
                    || name.contains("sinks")
                    || name.contains("ffn_gate_inp");
                let bytes = match (outtype, wide, blocks.contains(name)) {
                    (GgufType::F32, ..) | (_, true, _) => {
                        assert_eq!(found.kind, 0, "{at} {name}");
                        f32_bytes(expected)
                    }
                    (_, _, true) => {
                        assert_eq!(found.kind, 39, "{at} {name}");
                        continue;
                    }
                    _ => {
                        assert_eq!(found.kind, 30, "{at} {name}");
                        bytes(expected)
                    }
                };
                assert!(found.bytes == bytes, "{at} {name}");
            }
            compare_blocks(&read, &packed, &found, &at);
        }
    }
    Ok(())
}

/// The blocks of experts are those of the directory, code by code and scale by scale.
fn compare_blocks(
    directory: &Directory,
    list: &[&TensorSpec],
    found: &BTreeMap<String, Found>,
    at: &str,
) {
    for spec in list {
        let [values, scales] = spec
            .packed()
            .unwrap()
            .map(|tensor| directory.stored(&tensor.name).unwrap().to_vec().unwrap());
        let (inputs, outputs) = spec.dims().unwrap();
        let groups = inputs / 32;
        let names = super::names::names(spec).unwrap();
        let rows = spec.shape[0] * outputs;
        for row in 0..rows {
            let blocks = row * groups..(row + 1) * groups;
            let mut expected = vec![0; groups * blocks::BYTES];
            blocks::lay_out(
                &mut expected,
                &values[blocks.start * 16..blocks.end * 16],
                &scales[blocks.clone()],
            );
            let name = &names[row % names.len()];
            let place = row / names.len() * expected.len();
            assert!(
                found[name].bytes[place..][..expected.len()] == expected,
                "{at} {name} {row}"
            );
        }
    }
}

/// What candle reads of a file: another reader of the format than ours.
#[test]
fn candle_reads_the_file() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let out = parent.path().join("out");
    run(&options(&golden("model_mxfp4"), GgufType::Bf16, &out))?;
    let path = file(&out);
    assert_eq!(path.file_name().unwrap(), "model_mxfp4-BF16.gguf");
    let mut reader = fs::File::open(&path)?;
    let content = gguf_file::Content::read(&mut reader)?;
    let fact = |key: &str| content.metadata.get(key).with_context(|| key.to_owned());
    for (key, expected) in [
        ("gpt-oss.block_count", 4),
        ("gpt-oss.context_length", 131_072),
        ("gpt-oss.embedding_length", 64),
        ("gpt-oss.feed_forward_length", 96),
        ("gpt-oss.attention.head_count", 8),
        ("gpt-oss.attention.head_count_kv", 2),
        ("gpt-oss.attention.key_length", 16),
        ("gpt-oss.attention.value_length", 16),
        ("gpt-oss.attention.sliding_window", 8),
        ("gpt-oss.expert_count", 8),
        ("gpt-oss.expert_used_count", 2),
        ("gpt-oss.expert_feed_forward_length", 96),
        ("gpt-oss.rope.scaling.original_context_length", 4096),
        ("general.file_type", 32),
        ("tokenizer.ggml.bos_token_id", 740),
        ("tokenizer.ggml.eos_token_id", 742),
        ("tokenizer.ggml.padding_token_id", 741),
    ] {
        assert_eq!(fact(key)?.to_u32()?, expected, "{key}");
    }
    for (key, expected) in [
        ("gpt-oss.attention.layer_norm_rms_epsilon", 1e-5),
        ("gpt-oss.rope.freq_base", 150_000.0),
        ("gpt-oss.rope.scaling.factor", 32.0),
        ("gpt-oss.rope.scaling.yarn_beta_fast", 32.0),
        ("gpt-oss.rope.scaling.yarn_beta_slow", 1.0),
    ] {
        assert_eq!(fact(key)?.to_f32()?, expected, "{key}");
    }
    for (key, expected) in [
        ("general.architecture", "gpt-oss"),
        ("general.name", "model_mxfp4"),
        ("gpt-oss.rope.scaling.type", "yarn"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "gpt-4o"),
    ] {
        assert_eq!(fact(key)?.to_string()?, expected, "{key}");
    }
    assert_eq!(fact("tokenizer.ggml.tokens")?.to_vec()?.len(), 768);
    assert_eq!(fact("tokenizer.ggml.merges")?.to_vec()?.len(), 484);
    let base = Directory::open(&golden("model_mxfp4"))?;
    let name = "model.layers.2.self_attn.q_proj.weight";
    let expected = base.tensor(name, &[128, 64], DType::F32, &Device::Cpu)?;
    let found = content.tensor(&mut reader, "blk.2.attn_q.weight", &Device::Cpu)?;
    let found = found.dequantize(&Device::Cpu)?;
    assert_eq!(found.to_vec2::<f32>()?, expected.to_vec2::<f32>()?);
    Ok(())
}

/// A copy of the tiny model whose config.json was changed.
fn changed(to: &Path, key: &str, value: &Value) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(golden("model_bf16")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let path = to.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value.clone();
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let full = vec!["full_attention"; 4];
    for (key, value, says) in [
        ("swiglu_limit", json!(5.0), "swiglu_limit is not 7"),
        ("layer_types", json!(full), "layer 0 has none"),
    ] {
        let model = parent.path().join(key);
        changed(&model, key, &value);
        let error = format!(
            "{:#}",
            run(&options(&model, GgufType::F32, &out)).unwrap_err()
        );
        assert!(error.contains(says), "{error}");
    }
    let model = parent.path().join("no-tokenizer");
    changed(&model, "x", &json!(1));
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    let error = format!(
        "{:#}",
        run(&options(&model, GgufType::F32, &out)).unwrap_err()
    );
    assert!(error.contains("holds the tokenizer"), "{error}");
    assert!(!out.exists());
}

#[test]
fn flags_that_contradict_each_other_are_named() {
    let out = Path::new("/nowhere");
    let plain = options(&golden("model_bf16"), GgufType::F32, out);
    for (change, says) in [
        (
            (|o| o.quantize = Some(Quantize::Mxfp4)) as fn(&mut ExportConfig),
            "leave to_vllm, quantize and experts_dtype out",
        ),
        (|o| o.to_vllm = true, "leave to_vllm"),
        (|o| o.to_gguf = false, "give --to_gguf true, too"),
        (|o| o.model = None, "--model is missing"),
        (
            |o| o.adapters = vec!["a".to_owned(), "b".to_owned()],
            "one --adapters folder, found 2",
        ),
        (
            |o| o.output_dir = Some("x.gguf".to_owned()),
            "leave .gguf out",
        ),
    ] {
        let mut options = plain.clone();
        change(&mut options);
        let error = format!("{:#}", run(&options).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
}

/// A model of another family is refused by its model_type, and its tensors would have no names.
#[test]
fn another_family_is_refused_by_name() {
    let mut config = ModelConfig::read(&golden("model_bf16").join("config.json")).unwrap();
    config.family = &Family {
        model_type: "dense",
        architecture: |_| anyhow::bail!("it is made without config.json"),
        tensors: |architecture| decoder::tensors(architecture, decoder::dense_mlp),
        quantization: None,
        gguf: None,
    };
    let error = gguf::known(&config).unwrap_err().to_string();
    assert!(error.starts_with("model_type is dense"), "{error}");
    let spec = TensorSpec {
        name: "model.layers.0.mlp.gate_proj.weight".to_owned(),
        layer: Some(0),
        role: Role::Gate,
        part: Part::Weight,
        shape: vec![4, 4],
    };
    let error = gguf::names::names(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("model.layers.0.mlp.gate_proj.weight: "),
        "{error}"
    );
}
