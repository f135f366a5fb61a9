//! A PEFT adapter on disk: `adapter_config.json` and `adapter_model.safetensors`.

use super::expected::{self, Shapes};
use super::merge::ExpertMerge;
use super::peft_config::{self, PeftConfig, TargetModules};
use super::saved_targets::saved_targets;
use super::targets::TargetSpec;
use super::tensors_file::{TENSORS, ensure_finite, read};
use crate::families::ModelConfig;
use crate::model::updates::{PREFIX, expert_module, magnitude_key, pair_keys};
use crate::model::{Init, LoraSettings, Targets};
use crate::nn::Param;
use crate::tensors::{ExpertMatrix, TensorList, TensorSpec};
use crate::weights::Shard;
use anyhow::{Context, Result, bail, ensure};
use apus_base::checksums;
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter read from disk, its tensors checked against its configuration and the model's shape.
pub struct Adapter {
    /// Its configuration.
    pub config: PeftConfig,
    /// The modules that it trains.
    pub targets: Targets,
    /// Notes for the user about what may be unexpected.
    pub notes: Vec<String>,
    pub(super) dir: PathBuf,
    /// The tensors of the model that it is for.
    pub(super) list: TensorList,
    /// The tensors by their saved keys, f32, on the CPU, in the layout of current PEFT.
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Matrices of experts that are merged one by one, by the parameter's name.
    pub(super) experts: BTreeMap<String, ExpertMerge>,
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
    /// A file is missing or cut, a tensor is missing, superfluous, of another shape or not finite, or the adapter is of
    /// a kind that cannot be used; the error names it.
    pub fn open(dir: &Path, model: &ModelConfig) -> Result<Self> {
        ensure!(dir.is_dir(), "{}: no such adapter folder", dir.display());
        checksums::check(dir, [peft_config::FILE, TENSORS])?;
        let (mut config, mut notes) = PeftConfig::read(dir)?;
        let list = model.tensors();
        let (mut targets, more) = saved_targets(&list, &config)
            .with_context(|| dir.join(peft_config::FILE).display().to_string())?;
        notes.extend(more);
        let path = dir.join(TENSORS);
        let place = || path.display().to_string();
        let file = Shard::open(path.clone()).context("is this the folder of an adapter?")?;
        let keys: BTreeMap<String, String> = file.names().into_iter().map(current_key).collect();
        let mut shapes = Shapes::new();
        for (key, stored) in &keys {
            shapes.insert(key.clone(), file.tensor(stored)?.shape().to_vec());
        }
        let mut expected = expected::expected(&config, &targets, &list).with_context(place)?;
        let whole = expected::added_whole(&shapes, &expected, &list);
        if !whole.is_empty() {
            let modules = whole.join(" and ");
            notes.push(format!(
                "{modules}: stored whole beside the adapter, and used"
            ));
            targets.modules_to_save.extend(whole);
            expected = expected::expected(&config, &targets, &list)?;
        }
        let swapped = expected::swapped(&mut shapes, &expected, &targets, &list);
        let rank = config.patterns.is_empty().then_some(config.r);
        expected::compare(&shapes, &expected, rank).with_context(place)?;
        let mut tensors = BTreeMap::new();
        for (key, stored) in keys {
            tensors.insert(key, read(&file, &stored)?);
        }
        let experts = list.experts(0).unwrap_or(1);
        for [a_key, b_key] in swapped {
            let (a, b) = expected::unswap(&tensors[&a_key], &tensors[&b_key], experts)
                .with_context(place)?;
            tensors.insert(a_key, a);
            tensors.insert(b_key, b);
        }
        let all = tensors.iter().map(|(key, t)| (key.as_str(), t.clone()));
        ensure_finite(all).with_context(place)?;
        // The names are written out, so that the layers and modules that were left out need not be saved again.
        if config.exclude_modules.take().is_some() | config.layers.take().is_some() {
            config.target_modules = Some(TargetModules::Names(targets.linears.clone()));
        }
        Ok(Self {
            config,
            targets,
            notes,
            dir: dir.to_owned(),
            list,
            tensors,
            experts: BTreeMap::new(),
        })
    }

    /// One of nothing but whole tensors, by their keys, and matrices of experts.
    pub(super) fn of_whole(
        dir: &Path,
        model: &ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        experts: BTreeMap<String, ExpertMerge>,
    ) -> Self {
        let targets = Targets::default();
        let settings = LoraSettings {
            rank: 1,
            alpha: 1.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 0,
        };
        let wanted = TargetSpec::default();
        Self {
            config: PeftConfig::new(model, &wanted, &targets, &settings, None),
            targets,
            notes: Vec::new(),
            dir: dir.to_owned(),
            list: model.tensors(),
            tensors,
            experts,
        }
    }

    /// Its directory.
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
        let [a, b] = pair_keys(module);
        Some(Pair {
            a: self.tensors.get(&a)?,
            b: self.tensors.get(&b)?,
        })
    }

    /// DoRA's magnitude of a linear module.
    pub(super) fn magnitude(&self, module: &str) -> Option<&Tensor> {
        self.tensors.get(&magnitude_key(module))
    }

    /// The factor on `B A` of a tensor of the model.
    pub(super) fn scale(&self, spec: &TensorSpec) -> f64 {
        let target = match spec.expert_matrix() {
            Some(_) => spec.name.as_str(),
            None => spec.module(),
        };
        let settings = self.config.settings(0);
        settings.of(&self.targets, target).scale()
    }

    /// The pair of an expert matrix.
    pub(super) fn expert_pair(&self, layer: usize, matrix: ExpertMatrix) -> Option<Pair<'_>> {
        if !self.targets.experts.contains(&(layer, matrix)) {
            return None;
        }
        self.pair(&expert_module(&self.list, &self.targets, layer, matrix)?)
    }

    /// A tensor that is stored whole beside the pairs, by its name in the model.
    pub fn saved(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{PREFIX}{name}"))
    }
}

/// The key that current PEFT uses for a key of a file, and the key of the file: older releases added `.weight` to the magnitude.
fn current_key(stored: String) -> (String, String) {
    match stored.strip_suffix(".lora_magnitude_vector.weight") {
        Some(module) => (format!("{module}.lora_magnitude_vector"), stored),
        None => (stored.clone(), stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::save;
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
            let bytes = |dir: &Path| std::fs::read(dir.join(TENSORS)).unwrap();
            assert!(bytes(dir.path()) == bytes(&golden), "{name} differs");
            let again = Adapter::open(dir.path(), &tiny()).unwrap();
            assert_eq!((again.config, again.notes), (adapter.config, vec![]));
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
        write(&whole[7..]);
        let text = error(dir.path());
        assert!(
            text.contains("7 of the 40 tensors") && text.contains("and 3 more"),
            "{text}"
        );

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
        assert!(error(dir.path()).contains("adapter_model.safetensors: cannot be opened"));
        assert!(error(Path::new("/nowhere")).contains("no such adapter folder"));
    }

    #[test]
    fn values_that_are_not_finite_are_neither_read_nor_written() {
        let golden = goldens().join("adapter_grad_attn");
        let adapter = Adapter::open(&golden, &tiny()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let whole = params(&adapter);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = std::fs::read(golden.join(TENSORS)).unwrap();
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&bad.to_le_bytes());
            std::fs::write(dir.path().join(TENSORS), bytes).unwrap();
            adapter.config.write(dir.path()).unwrap();
            let text = error(dir.path());
            assert!(
                text.contains(
                    "adapter_model.safetensors: 1 of its tensors hold values that are not finite"
                ),
                "{text}"
            );
            let last = whole.last().unwrap();
            let value = (last.value().ones_like().unwrap() * f64::from(bad)).unwrap();
            let mut params = whole.clone();
            params.push(Param::new("base_model.model.bad", &value, true).unwrap());
            let into = tempfile::tempdir().unwrap();
            let text = format!(
                "{:#}",
                save(into.path(), &params, &adapter.config).unwrap_err()
            );
            assert!(text.contains("base_model.model.bad"), "{text}");
            assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_the_configuration_does_not_name_is_refused() {
        let golden = goldens().join("adapter_grad_attn");
        let adapter = Adapter::open(&golden, &tiny()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = PeftConfig {
            target_modules: Some(TargetModules::Names(vec![
                "q_proj".into(),
                "gate_proj".into(),
            ])),
            ..adapter.config.clone()
        };
        save(dir.path(), &params(&adapter), &config).unwrap();
        let text = error(dir.path());
        assert!(
            text.contains("24 of its 32 tensors belong to nothing"),
            "{text}"
        );
        let mut config = config;
        config.target_modules = Some(TargetModules::Names(vec!["self_attn".into()]));
        config.write(dir.path()).unwrap();
        assert!(error(dir.path()).contains("adapter_config.json: target_modules names"));
    }

    #[test]
    fn layers_that_were_left_out_are_written_as_names() {
        let golden = goldens().join("adapter_grad_attn");
        let adapter = Adapter::open(&golden, &tiny()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let some: Vec<_> = params(&adapter)
            .into_iter()
            .filter(|p| p.name().contains("layers.2.") && !p.name().contains("o_proj"))
            .collect();
        let names = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned);
        let config = PeftConfig {
            target_modules: Some(TargetModules::Names(names.to_vec())),
            exclude_modules: Some(TargetModules::Regex(".*o_proj".into())),
            layers: Some(vec![2]),
            ..adapter.config.clone()
        };
        save(dir.path(), &some, &config).unwrap();
        let limited = Adapter::open(dir.path(), &tiny()).unwrap();
        assert_eq!(limited.targets.linears.len(), 3);
        save(dir.path(), &some, &limited.config).unwrap();
        let text = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
        assert!(!text.contains("exclude_modules"), "{text}");
        assert_eq!(
            Adapter::open(dir.path(), &tiny()).unwrap().targets,
            limited.targets
        );
    }
}
