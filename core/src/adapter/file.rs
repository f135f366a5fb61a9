//! A PEFT adapter on disk: `adapter_config.json` and `adapter_model.safetensors`.

use super::peft_config::PeftConfig;
use super::targets;
use crate::model::{Config, ExpertMatrix, Param, Targets};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the file of tensors.
const TENSORS: &str = "adapter_model.safetensors";

/// Prefix of every key.
const PREFIX: &str = "base_model.model.";

/// Writes an adapter: f32 tensors under the parameters' names, and the configuration.
///
/// The caller gives a fresh directory and renames it when it is whole.
///
/// # Errors
/// A file cannot be written.
pub fn save(dir: &Path, params: &[Arc<Param>], config: &PeftConfig) -> Result<()> {
    let tensors = params
        .iter()
        .map(|p| {
            let values = p.value().to_device(&Device::Cpu)?.flatten_all()?;
            Ok((p, values.to_vec1::<f32>()?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes: Vec<(&Arc<Param>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(p, values)| (p, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(p, bytes)| {
            let shape = p.value().dims().to_vec();
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes)?;
            Ok((p.name(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = dir.join(TENSORS);
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    config.write(dir)
}

/// An adapter read from disk, its tensors checked against the model's shape.
pub struct Adapter {
    /// Its configuration.
    pub config: PeftConfig,
    /// What it trains.
    pub targets: Targets,
    pub(super) dir: PathBuf,
    /// By saved key, f32, on the CPU, in the layout of current PEFT.
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// The tensors of one low-rank pair.
pub(super) struct Pair<'a> {
    pub a: &'a Tensor,
    pub b: &'a Tensor,
}

impl Adapter {
    /// Reads an adapter for a model of this shape.
    ///
    /// # Errors
    /// A file is missing or cut, a tensor is missing, superfluous or of another shape; the error names it.
    pub fn open(dir: &Path, model: &Config) -> Result<Self> {
        ensure!(dir.is_dir(), "{}: no such adapter folder", dir.display());
        let config = PeftConfig::read(dir)?;
        let path = dir.join(TENSORS);
        let tensors = read_tensors(&path)?;
        let targets =
            targets_in(&tensors, &config, model).with_context(|| path.display().to_string())?;
        let mut adapter = Self {
            config,
            targets,
            dir: dir.to_owned(),
            tensors,
        };
        adapter
            .check(model)
            .with_context(|| path.display().to_string())?;
        Ok(adapter)
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its tensors by saved key, f32, on the CPU.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Sets the parameters of a model that carries this adapter's [`targets`](Self::targets).
    ///
    /// # Errors
    /// A parameter is not in the file or of another shape, or a tensor of the file belongs to no parameter.
    pub fn load_into(&self, params: &[Arc<Param>]) -> Result<()> {
        let mut left: BTreeSet<&str> = self.tensors.keys().map(String::as_str).collect();
        for param in params {
            let Some(value) = self.tensors.get(param.name()) else {
                bail!(
                    "{}: has no tensor {}, which the model trains",
                    self.dir.join(TENSORS).display(),
                    param.name()
                );
            };
            left.remove(param.name());
            let file = || self.dir.join(TENSORS).display().to_string();
            param.set(value).with_context(file)?;
        }
        if let Some(first) = left.first() {
            bail!(
                "{}: {} of its tensors belong to nothing that is trained, {first} first",
                self.dir.join(TENSORS).display(),
                left.len()
            );
        }
        Ok(())
    }

    /// The pair of a linear module, by its path.
    pub(super) fn pair(&self, module: &str) -> Option<Pair<'_>> {
        let of = |m: &str| {
            self.tensors
                .get(&format!("{PREFIX}{module}.lora_{m}.weight"))
        };
        Some(Pair {
            a: of("A")?,
            b: of("B")?,
        })
    }

    /// DoRA's magnitude of a linear module.
    pub(super) fn magnitude(&self, module: &str) -> Option<&Tensor> {
        let key = format!("{PREFIX}{module}.lora_magnitude_vector");
        self.tensors.get(&key)
    }

    /// The pair of an expert matrix.
    pub(super) fn expert_pair(&self, layer: usize, matrix: ExpertMatrix) -> Option<Pair<'_>> {
        if !self.targets.experts.contains(&(layer, matrix)) {
            return None;
        }
        self.pair(&expert_module(&self.targets, layer, matrix))
    }

    /// A module's tensor stored whole, by its name in the model.
    pub(super) fn saved(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{PREFIX}{name}"))
    }

    /// Checks every shape, and turns expert pairs of other PEFT releases into the current layout.
    fn check(&mut self, model: &Config) -> Result<()> {
        let r = self.config.r;
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for module in &self.targets.linears {
            let (input, output) = linear_dims(model, module);
            expected.insert(format!("{PREFIX}{module}.lora_A.weight"), vec![r, input]);
            expected.insert(format!("{PREFIX}{module}.lora_B.weight"), vec![output, r]);
            if self.config.use_dora {
                expected.insert(
                    format!("{PREFIX}{module}.lora_magnitude_vector"),
                    vec![output],
                );
            }
        }
        self.unswap(model)?;
        for &(layer, matrix) in &self.targets.experts {
            let module = expert_module(&self.targets, layer, matrix);
            let (input, output) = expert_dims(model, matrix);
            let ranks = r * model.num_local_experts;
            expected.insert(
                format!("{PREFIX}{module}.lora_A.weight"),
                vec![ranks, input],
            );
            expected.insert(
                format!("{PREFIX}{module}.lora_B.weight"),
                vec![output, ranks],
            );
        }
        for (key, shape) in &expected {
            let Some(tensor) = self.tensors.get(key) else {
                bail!("has no tensor {key}");
            };
            ensure!(
                tensor.dims() == shape,
                "{key} has shape {:?}, expected {shape:?} (rank {r}, and the shape of the base model)",
                tensor.dims()
            );
        }
        let whole = &self.targets.modules_to_save;
        for key in self
            .tensors
            .keys()
            .filter(|key| !expected.contains_key(*key))
        {
            let module = key
                .strip_prefix(PREFIX)
                .and_then(|name| name.rsplit_once('.'));
            ensure!(
                module.is_some_and(|(module, _)| whole.iter().any(|m| m == module)),
                "{key} belongs to no module that adapter_config.json names"
            );
        }
        Ok(())
    }

    /// PEFT with a transformers whose `GptOssExperts` has no `is_transposed` takes inputs for outputs: A is
    /// `[r E, out]` and B `[in, r E]`. Matrices that are not square tell which of the two wrote the file.
    fn unswap(&mut self, model: &Config) -> Result<()> {
        let ranks = self.config.r * model.num_local_experts;
        let keys = |targets: &Targets, layer, matrix| {
            let module = expert_module(targets, layer, matrix);
            ["A", "B"].map(|m| format!("{PREFIX}{module}.lora_{m}.weight"))
        };
        let is_swapped = |layer, matrix| {
            let (input, output) = expert_dims(model, matrix);
            let [a, b] = keys(&self.targets, layer, matrix);
            let found = |key: &str, shape: [usize; 2]| {
                self.tensors.get(key).is_some_and(|t| t.dims() == shape)
            };
            input != output && found(&a, [ranks, output]) && found(&b, [input, ranks])
        };
        let experts = self.targets.experts.clone();
        if !experts
            .iter()
            .any(|&(layer, matrix)| is_swapped(layer, matrix))
        {
            return Ok(());
        }
        let (e, r) = (model.num_local_experts, self.config.r);
        for (layer, matrix) in experts {
            let (input, output) = expert_dims(model, matrix);
            let [a_key, b_key] = keys(&self.targets, layer, matrix);
            let (Some(a), Some(b)) = (self.tensors.get(&a_key), self.tensors.get(&b_key)) else {
                continue;
            };
            let new_a = b.reshape((input, r, e))?.permute((2, 1, 0))?;
            let new_b = a.reshape((e, r, output))?.permute((2, 1, 0))?;
            let new_a = new_a.contiguous()?.reshape((ranks, input))?;
            let new_b = new_b.contiguous()?.reshape((output, ranks))?;
            self.tensors.insert(a_key, new_a);
            self.tensors.insert(b_key, new_b);
        }
        Ok(())
    }
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).with_context(|| {
        format!(
            "{}: cannot be read; is this the folder of an adapter?",
            path.display()
        )
    })?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| {
        format!(
            "{}: not a whole safetensors file ({} bytes); was its copy cut?",
            path.display(),
            bytes.len()
        )
    })?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => bail!(
                "{}: {name} has type {other:?}, expected F32, F16 or BF16",
                path.display()
            ),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        // Older releases of PEFT kept a `.weight` behind the magnitude.
        let name = match name.strip_suffix(".lora_magnitude_vector.weight") {
            Some(module) => format!("{module}.lora_magnitude_vector"),
            None => name,
        };
        tensors.insert(name, tensor.to_dtype(DType::F32)?);
    }
    Ok(tensors)
}

/// What the keys of a file belong to. The key of a single expert matrix does not say which one it is:
/// `target_parameters` does.
fn targets_in(
    tensors: &BTreeMap<String, Tensor>,
    config: &PeftConfig,
    model: &Config,
) -> Result<Targets> {
    let parameters = config.target_parameters.clone().unwrap_or_default();
    let named = targets::experts(model, &parameters)?;
    let mut found = Targets::default();
    for key in tensors.keys() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            bail!("{key} is no key of a PEFT adapter: it does not start with {PREFIX}");
        };
        let pair = [".lora_A.weight", ".lora_B.weight"];
        let Some(module) = pair.iter().find_map(|end| name.strip_suffix(end)) else {
            let lora = name.contains(".lora_");
            if let (false, Some((module, _))) = (lora, name.rsplit_once('.')) {
                found.modules_to_save.push(module.to_owned());
            }
            continue;
        };
        let module = module.strip_suffix(".base_layer").unwrap_or(module);
        let module = module.to_owned();
        if !module.ends_with(".mlp.experts") && !found.linears.contains(&module) {
            found.linears.push(module);
        }
    }
    found.experts = named;
    let known = super::inventory::modules(model);
    for module in found.linears.iter().chain(&found.modules_to_save) {
        ensure!(
            known.iter().any(|m| &m.path == module),
            "it has tensors for {module}, which the base model of {} layers does not have",
            model.num_hidden_layers
        );
    }
    found.modules_to_save.dedup();
    Ok(found)
}

/// Module under which PEFT saves an expert matrix: where both are targets, `gate_up_proj` is the inner one.
fn expert_module(targets: &Targets, layer: usize, matrix: ExpertMatrix) -> String {
    let both = [ExpertMatrix::GateUp, ExpertMatrix::Down]
        .iter()
        .all(|m| targets.experts.contains(&(layer, *m)));
    let inner = match both && matrix == ExpertMatrix::GateUp {
        true => ".base_layer",
        false => "",
    };
    format!("model.layers.{layer}.mlp.experts{inner}")
}

/// Inputs and outputs of a linear module.
fn linear_dims(model: &Config, module: &str) -> (usize, usize) {
    let (hidden, q, kv) = (model.hidden_size, model.attention_width(), model.kv_width());
    match module.rsplit_once('.').map(|(_, name)| name) {
        Some("q_proj") => (hidden, q),
        Some("o_proj") => (q, hidden),
        Some("k_proj" | "v_proj") => (hidden, kv),
        Some("router") => (hidden, model.num_local_experts),
        _ => (hidden, model.vocab_size),
    }
}

/// Inputs and outputs of an expert matrix.
fn expert_dims(model: &Config, matrix: ExpertMatrix) -> (usize, usize) {
    let (hidden, inter) = (model.hidden_size, model.intermediate_size);
    match matrix {
        ExpertMatrix::GateUp => (hidden, 2 * inter),
        ExpertMatrix::Down => (inter, hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::{goldens, tiny};

    fn params(adapter: &Adapter) -> Vec<Arc<Param>> {
        let all = adapter.tensors.iter();
        all.map(|(name, t)| Param::new(name.clone(), t, true).unwrap())
            .collect()
    }

    fn error(dir: &Path) -> String {
        format!("{:#}", Adapter::open(dir, &tiny()).err().unwrap())
    }

    #[test]
    fn what_is_read_is_written_to_the_byte() {
        for name in ["attn", "attn_experts", "attn_rslora", "attn_dora"] {
            let golden = goldens().join(format!("adapter_grad_{name}"));
            let adapter = Adapter::open(&golden, &tiny()).unwrap();
            assert_eq!(adapter.targets.linears.len(), 16);
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &params(&adapter), &adapter.config).unwrap();
            for file in [TENSORS, crate::adapter::peft_config::FILE] {
                let bytes = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
                assert!(bytes(dir.path()) == bytes(&golden), "{name}/{file} differs");
            }
        }
    }

    #[test]
    fn swapped_pairs_are_recognised() {
        let golden = goldens().join("adapter_grad_attn_experts");
        let adapter = Adapter::open(&golden, &tiny()).unwrap();
        let (e, r) = (8, 4);
        let mut swapped = params(&adapter);
        for p in &mut swapped {
            let Some(stem) = p.name().strip_suffix(".lora_A.weight") else {
                continue;
            };
            if !p.name().contains("experts") {
                continue;
            }
            let b = &adapter.tensors[&format!("{stem}.lora_B.weight")];
            let out = b.dim(0).unwrap();
            let a = b.reshape((out, r, e)).unwrap().permute((2, 1, 0)).unwrap();
            let a = a.contiguous().unwrap().reshape((r * e, out)).unwrap();
            *p = Param::new(p.name(), &a, true).unwrap();
        }
        for p in &mut swapped {
            let Some(stem) = p.name().strip_suffix(".lora_B.weight") else {
                continue;
            };
            if !p.name().contains("experts") {
                continue;
            }
            let a = &adapter.tensors[&format!("{stem}.lora_A.weight")];
            let input = a.dim(1).unwrap();
            let b = a
                .reshape((e, r, input))
                .unwrap()
                .permute((2, 1, 0))
                .unwrap();
            let b = b.contiguous().unwrap().reshape((input, r * e)).unwrap();
            *p = Param::new(p.name(), &b, true).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &swapped, &adapter.config).unwrap();
        let again = Adapter::open(dir.path(), &tiny()).unwrap();
        for (key, tensor) in &adapter.tensors {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(again.tensors[key].dims(), tensor.dims(), "{key}");
            assert_eq!(values(&again.tensors[key]), values(tensor), "{key}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let golden = goldens().join("adapter_grad_attn_experts");
        let adapter = Adapter::open(&golden, &tiny()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |params: &[Arc<Param>]| save(dir.path(), params, &adapter.config).unwrap();

        let whole = params(&adapter);
        write(&whole[1..]);
        assert!(error(dir.path()).contains(whole[0].name()));

        let mut extra = whole.clone();
        let name = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight";
        extra.push(Param::new(name, &adapter.tensors[whole[0].name()], true).unwrap());
        write(&extra);
        assert!(error(dir.path()).contains("model.layers.9.self_attn.q_proj"));

        let mut wrong = whole.clone();
        let thin = whole[2].value().narrow(0, 0, 2).unwrap();
        wrong[2] = Param::new(whole[2].name(), &thin, true).unwrap();
        write(&wrong);
        assert!(
            error(dir.path()).contains("has shape [2, 128], expected [4, 128]"),
            "{}",
            error(dir.path())
        );

        let path = dir.path().join(TENSORS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(error(dir.path()).contains("not a whole safetensors file"));
        std::fs::remove_file(&path).unwrap();
        assert!(error(dir.path()).contains("adapter_model.safetensors: cannot be read"));
        assert!(error(Path::new("/nowhere")).contains("no such adapter folder"));
    }
}
