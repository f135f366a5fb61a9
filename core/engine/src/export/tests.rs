use super::*;
use apus_components::config::{ExpertsForm, Quantize};
use apus_model::adapter::Adapter;
use apus_model::families::ModelConfig;
use apus_model::ops::mxfp4;
use apus_model::tensors::TensorSpec;
use apus_model::weights::{Directory, WeightSource};
use candle_core::Device;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Exports with these flags.
pub(super) fn run(options: &ExportConfig) -> Result<PathBuf> {
    super::run(&Resolved::from(options.clone()))
}

pub(super) fn golden(path: &str) -> PathBuf {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/goldens/tiny"
    ))
    .join(path)
}

fn raw(directory: &Directory) -> BTreeMap<String, Vec<u8>> {
    let names = directory.names().map(str::to_owned).collect::<Vec<_>>();
    let with_bytes = |name: String| {
        let bytes = directory.stored(&name).unwrap().to_vec().unwrap();
        (name, bytes)
    };
    names.into_iter().map(with_bytes).collect()
}

pub(super) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.to_dtype(DType::BF16).unwrap();
    let mut bytes = vec![0; tensor.elem_count() * 2];
    put(&tensor, DType::BF16, &mut bytes).unwrap();
    bytes
}

/// Matrices of experts in bf16, `[E, in, out]`, by the plain formula.
pub(super) fn unpacked(directory: &Directory, spec: &TensorSpec) -> Tensor {
    let [blocks, scales] = spec.packed().unwrap().map(|tensor| {
        directory
            .tensor(&tensor.name, &tensor.shape, DType::U8, &Device::Cpu)
            .unwrap()
    });
    let rows = mxfp4::dequantize(&blocks, &scales).unwrap();
    let dense = rows.transpose(1, 2).unwrap().contiguous().unwrap();
    dense.to_dtype(DType::BF16).unwrap()
}

pub(super) fn merge_options(model: &str, adapter: &Path, out: &Path) -> ExportConfig {
    ExportConfig {
        model: Some(golden(model).display().to_string()),
        adapters: vec![adapter.display().to_string()],
        merge_lora: true,
        output_dir: Some(out.display().to_string()),
        ..Default::default()
    }
}

fn config(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn merging_gives_pefts_bits_and_leaves_the_rest_alone() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    let adapter = golden("adapter_grad_attn_experts");
    let options = merge_options("model_mxfp4", &adapter, &out);
    run(&options).unwrap();
    let merged = raw(&Directory::open(&out).unwrap());
    let base = raw(&Directory::open(&golden("model_mxfp4")).unwrap());
    let expected = golden("merged_attn_experts_touched_bf16.safetensors");
    let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
    for (name, found) in &merged {
        match (expected.get(name), base.get(name)) {
            (Some(tensor), _) if !name.contains(".experts.") => {
                assert_eq!(found, &bytes(tensor), "{name}");
            }
            (_, Some(base)) if !name.contains("self_attn") || name.ends_with("bias") => {
                assert_eq!(found, base, "{name}");
            }
            _ => {}
        }
    }
    assert!(merged.contains_key("model.layers.1.mlp.experts.down_proj"));
    assert!(!merged.contains_key("model.layers.1.mlp.experts.down_proj_blocks"));
    assert!(merged.contains_key("model.layers.0.mlp.experts.down_proj_blocks"));
    assert!(out.join("tokenizer.json").is_file());
    assert!(format!("{:#}", run(&options).unwrap_err()).contains("exists already"));
    // transformers looks for experts and MLPs by the beginning of their names.
    let list = &config(&out)["quantization_config"]["modules_to_not_convert"];
    let named = |name: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .filter(|n| *n == name)
            .count()
    };
    for layer in 0..4 {
        for module in ["mlp", "mlp.experts"] {
            let expected = usize::from(layer % 2 == 1);
            let name = format!("model.layers.{layer}.{module}");
            assert_eq!(named(&name), expected, "{name}");
        }
    }
}

/// Merges an adapter into a model, and compares every tensor with the plain formula, which works on whole tensors; packed again, with
/// packing what the plain formula gives. What no adapter touches stays as it is to the bit.
fn compare_with_the_plain_formula(model: &Path, adapter: &Path, quantize: Option<Quantize>) {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    let mut options = merge_options("", adapter, &out);
    options.model = Some(model.display().to_string());
    options.quantize = quantize;
    options.max_shard_size = "200KB".to_owned();
    run(&options).unwrap();
    let (base, found) = (
        Directory::open(model).unwrap(),
        Directory::open(&out).unwrap(),
    );
    let model_config = ModelConfig::read(&model.join("config.json")).unwrap();
    let list = model_config.tensors();
    let merged = Adapter::open(adapter, &model_config).unwrap();
    for spec in list.iter() {
        let at = format!("{model:?} {quantize:?} {adapter:?} {}", spec.name);
        let touched = merged.touches(&spec.name);
        let packed = base.is_packed(spec);
        let plain = match packed {
            true => unpacked(&base, spec),
            false => base
                .tensor(&spec.name, &spec.shape, DType::BF16, &Device::Cpu)
                .unwrap(),
        };
        let plain = merged
            .merged_weight(&spec.name, &plain)
            .unwrap()
            .unwrap_or(plain);
        let stored = |name: &str| found.stored(name).unwrap().to_vec().unwrap();
        match (spec.packed(), found.is_packed(spec)) {
            (Some(tensors), true) if packed && !touched => {
                for tensor in tensors {
                    let there = base.stored(&tensor.name).unwrap().to_vec().unwrap();
                    assert!(stored(&tensor.name) == there, "{at}");
                }
            }
            (Some([blocks, scales]), true) => {
                assert!(quantize.is_some(), "{at}");
                let rows = plain.to_dtype(DType::F32).unwrap();
                let rows = rows.transpose(1, 2).unwrap().contiguous().unwrap();
                let (b, s) = mxfp4::quantize(&rows).unwrap();
                let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
                assert!(stored(&blocks.name) == flat(b), "{at}");
                assert!(stored(&scales.name) == flat(s), "{at}");
            }
            _ => {
                assert!(spec.packed().is_none() || quantize.is_none(), "{at}");
                assert!(stored(&spec.name) == bytes(&plain), "{at}");
            }
        }
    }
    // config.json says what is packed, each module once.
    let packed = |spec: &TensorSpec| spec.packed().is_some() && found.is_packed(spec);
    let quantization = config(&out)["quantization_config"].clone();
    assert_eq!(quantization.is_object(), list.iter().any(packed), "{out:?}");
    for spec in list.iter().filter(|spec| spec.packed().is_some()) {
        let named = quantization["modules_to_not_convert"].as_array();
        let named = named.map_or(0, |l| l.iter().filter(|n| *n == spec.module()).count());
        let expected = usize::from(quantization.is_object() && !packed(spec));
        assert_eq!(named, expected, "{} {model:?} {adapter:?}", spec.name);
    }
}

/// Of two exports to one folder the second ends, and the first goes on.
#[test]
fn a_folder_is_written_by_one_process() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    let [temporary, _] = whole::parts(&out).unwrap();
    let first = whole::staging(&temporary).unwrap();
    fs::write(temporary.join("model.safetensors"), "half").unwrap();
    let adapter = golden("adapter_grad_attn");
    let mut options = merge_options("model_mxfp4", &adapter, &out);
    for to_vllm in [false, true] {
        (options.merge_lora, options.to_vllm) = (!to_vllm, to_vllm);
        let error = format!("{:#}", run(&options).unwrap_err());
        assert!(
            error.contains("another process writes there now"),
            "{error}"
        );
        assert!(temporary.join("model.safetensors").is_file() && !out.exists());
    }
    drop(first);
    run(&options).unwrap();
    assert!(out.is_dir() && !temporary.exists());
}

/// Every kind of adapter in every form of model, one of which has layers of either form.
#[test]
fn every_merge_has_the_bits_of_the_plain_formula() {
    let parent = tempfile::tempdir().unwrap();
    let mixed = parent.path().join("mixed");
    let experts = golden("adapter_grad_attn_experts");
    run(&merge_options("model_mxfp4", &experts, &mixed)).unwrap();
    for model in [golden("model_mxfp4"), golden("model_bf16"), mixed] {
        for adapter in ["attn", "attn_experts", "attn_rslora", "attn_dora"] {
            let adapter = golden(&format!("adapter_grad_{adapter}"));
            for quantize in [None, Some(Quantize::Mxfp4)] {
                compare_with_the_plain_formula(&model, &adapter, quantize);
            }
        }
    }
}

/// An expert whose update is zero keeps its bytes, also where the others of its layer are packed again.
#[test]
fn an_expert_that_was_not_trained_stays_to_the_bit() {
    let parent = tempfile::tempdir().unwrap();
    let (adapter, out) = (parent.path().join("adapter"), parent.path().join("merged"));
    fs::create_dir(&adapter).unwrap();
    let from = golden("adapter_grad_attn_experts");
    fs::copy(
        from.join("adapter_config.json"),
        adapter.join("adapter_config.json"),
    )
    .unwrap();
    let tensors = from.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
    let (experts, untrained) = (8, 5);
    for (name, tensor) in &mut tensors {
        if name.contains("experts") && name.ends_with("lora_B.weight") {
            // Of B the columns of an expert are every eighth.
            let keep: Vec<f32> = (0..tensor.dim(1).unwrap())
                .map(|column| f32::from(column % experts != untrained))
                .collect();
            let keep = Tensor::new(keep, &Device::Cpu).unwrap();
            *tensor = tensor.broadcast_mul(&keep).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, adapter.join("adapter_model.safetensors")).unwrap();
    compare_with_the_plain_formula(&golden("model_mxfp4"), &adapter, None);
    compare_with_the_plain_formula(&golden("model_bf16"), &adapter, Some(Quantize::Mxfp4));
    let mut options = merge_options("model_mxfp4", &adapter, &out);
    options.quantize = Some(Quantize::Mxfp4);
    run(&options).unwrap();
    let merged = raw(&Directory::open(&out).unwrap());
    let base = raw(&Directory::open(&golden("model_mxfp4")).unwrap());
    assert!(merged.keys().eq(base.keys()));
    for layer in [1, 3] {
        let name = format!("model.layers.{layer}.mlp.experts.down_proj_blocks");
        let (found, there) = (&merged[&name], &base[&name]);
        let size = found.len() / experts;
        for expert in 0..experts {
            let same = found[expert * size..][..size] == there[expert * size..][..size];
            assert_eq!(same, expert == untrained, "{name} {expert}");
        }
    }
}

/// All experts in BF16, with an adapter and without; and the two flags that contradict each other.
#[test]
fn all_experts_are_unpacked_on_demand() {
    let parent = tempfile::tempdir().unwrap();
    let base = Directory::open(&golden("model_mxfp4")).unwrap();
    let model_config = ModelConfig::read(&golden("model_mxfp4").join("config.json")).unwrap();
    let list = model_config.tensors();
    let path = golden("adapter_grad_attn_experts");
    let adapter = Adapter::open(&path, &model_config).unwrap();
    for merge_lora in [true, false] {
        let out = parent.path().join(merge_lora.to_string());
        let mut options = merge_options("model_mxfp4", &path, &out);
        options.experts_dtype = Some(ExpertsForm::Bf16);
        if !merge_lora {
            let error = ExportConfig {
                merge_lora,
                ..options.clone()
            };
            let error = run(&error).unwrap_err().to_string();
            assert!(error.contains("--merge_lora true, too"), "{error}");
            (options.adapters, options.merge_lora) = (Vec::new(), false);
        }
        run(&options).unwrap();
        let found = Directory::open(&out).unwrap();
        assert!(config(&out).get("quantization_config").is_none());
        for spec in list.iter().filter(|spec| spec.packed().is_some()) {
            let plain = unpacked(&base, spec);
            let merged = adapter.merged_weight(&spec.name, &plain).unwrap();
            let plain = merged.filter(|_| merge_lora).unwrap_or(plain);
            let stored = found.stored(&spec.name).unwrap().to_vec().unwrap();
            assert!(stored == bytes(&plain), "{}", spec.name);
        }
        let again = ExportConfig {
            model: Some(out.display().to_string()),
            adapters: Vec::new(),
            merge_lora: false,
            experts_dtype: Some(ExpertsForm::Bf16),
            ..Default::default()
        };
        let error = run(&again).unwrap_err().to_string();
        assert!(error.contains("has no packed experts to unpack"), "{error}");
        let both = ExportConfig {
            quantize: Some(Quantize::Mxfp4),
            ..again
        };
        let error = run(&both).unwrap_err().to_string();
        assert!(error.contains("experts_dtype is bf16"), "{error}");
    }
}

#[test]
fn packing_what_was_unpacked_gives_the_same_values() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("packed");
    let options = ExportConfig {
        model: Some(golden("model_bf16").display().to_string()),
        quantize: Some(Quantize::Mxfp4),
        output_dir: Some(out.display().to_string()),
        ..Default::default()
    };
    run(&options).unwrap();
    let packed = Directory::open(&out).unwrap();
    let plain = Directory::open(&golden("model_bf16")).unwrap();
    let model_config = ModelConfig::read(&out.join("config.json")).unwrap();
    let list = model_config.tensors();
    for layer in 0..4 {
        for part in ["gate_up_proj", "down_proj"] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let spec = list.get(&name).unwrap();
            let found = bytes(&unpacked(&packed, spec));
            let expected = plain.stored(&name).unwrap().to_vec().unwrap();
            // Zeros may change their sign.
            let same = found
                .iter()
                .zip(&expected)
                .all(|(a, b)| a == b || (a | 0x80) == (b | 0x80));
            assert!(same, "{name}");
        }
    }
}
