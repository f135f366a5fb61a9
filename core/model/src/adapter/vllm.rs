//! An adapter in the form that vLLM's LoRA loader takes.
//!
//! It reads PEFT's files with conditions of its own: no DoRA, nothing stored whole, updates of attention's projections and of experts
//! alone. Of a layer with experts it wants both pairs: that under `experts.base_layer` it takes for gate and up, that under `experts`
//! for down. PEFT writes the pair of the only matrix that is trained under `experts`, whichever it is; so the other one is added here,
//! with a B of zeros.

use super::file::{Adapter, Pair};
use super::patterns::Patterns;
use super::peft_config::PeftConfig;
use crate::model::LoraSettings;
use crate::model::updates::{PREFIX, expert_module, pair_keys};
use crate::nn::Param;
use crate::tensors::{ExpertMatrix, Role};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The linear modules that vLLM gives updates to.
const LINEARS: [&str; 4] = ["q_proj", "k_proj", "v_proj", "o_proj"];

/// What `--max-lora-rank` may be.
const RANKS: [usize; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// An adapter that vLLM takes.
pub struct VllmAdapter {
    /// Its tensors.
    pub params: Vec<Arc<Param>>,
    /// Its configuration.
    pub config: PeftConfig,
    /// The least `--max-lora-rank` that holds it.
    pub max_rank: usize,
    /// The matrices to which an update of zeros was added.
    pub added: Vec<String>,
}

impl Adapter {
    /// The adapter for vLLM. It computes the same.
    ///
    /// # Errors
    /// It has something that vLLM does not take; the error names it.
    pub fn for_vllm(&self) -> Result<VllmAdapter> {
        let merge = "merge it with --merge_lora true instead";
        ensure!(
            !self.config.use_dora,
            "use_dora is true, which vLLM does not take; {merge}"
        );
        let whole = &self.targets.modules_to_save;
        ensure!(
            whole.is_empty(),
            "{} stored whole, which vLLM does not take; {merge}",
            whole.join(", ")
        );
        let name = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let other = self.targets.linears.iter();
        let other = other.map(|path| name(path));
        let other: BTreeSet<String> = other.filter(|n| !LINEARS.contains(&n.as_str())).collect();
        ensure!(
            other.is_empty(),
            "{} carries an update; vLLM takes those of {} and experts; {merge}",
            other.into_iter().collect::<Vec<_>>().join(", "),
            LINEARS.join(", ")
        );
        let own = self.targets.own.values().map(|numbers| numbers.rank);
        let r = own.fold(self.config.r, usize::max);
        let max_rank = RANKS.into_iter().find(|max| r <= *max);
        let max_rank =
            max_rank.with_context(|| format!("r is {r}, vLLM takes 512 at most; {merge}"))?;

        let mut config = self.config.clone();
        let mut targets = self.targets.clone();
        let layers: BTreeSet<usize> = targets.experts.iter().map(|(layer, _)| *layer).collect();
        let both = [ExpertMatrix::GateUp, ExpertMatrix::Down];
        targets.experts = layers.iter().flat_map(|l| both.map(|m| (*l, m))).collect();
        config.r = r;
        // The scale of most stays, whatever the rank is now.
        let settings = self.config.settings(0);
        config.lora_alpha = match r == settings.rank {
            true => settings.alpha,
            false => settings.scale() * LoraSettings::divisor(r, settings.use_rslora),
        };
        config.patterns = Patterns::default();
        targets.own.clear();
        let alike = |target: &str, pair: Pair, experts: usize| {
            let scale = settings.of(&self.targets, target).scale() / settings.scale();
            alike(&pair, (r, experts), scale)
        };
        let (mut tensors, mut added, mut names) = (BTreeMap::new(), Vec::new(), Vec::new());
        for module in &targets.linears {
            let pair = self.pair(module);
            let pair = pair.with_context(|| format!("{module} has no pair"))?;
            tensors.extend(pair_keys(module).into_iter().zip(alike(module, pair, 1)?));
        }
        for (layer, matrix) in &targets.experts {
            let module = expert_module(&self.list, &targets, *layer, *matrix);
            let spec = self.list.weight(Some(*layer), Role::Experts(*matrix));
            let (Some(module), Some(spec)) = (module, spec) else {
                continue;
            };
            let pair = match self.expert_pair(*layer, *matrix) {
                Some(pair) => alike(&spec.name, pair, spec.matrices())?,
                None => {
                    added.push(spec.name.clone());
                    let &[e, inputs, outputs] = spec.shape.as_slice() else {
                        continue;
                    };
                    let zeros =
                        |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu);
                    [zeros((e * r, inputs))?, zeros((outputs, e * r))?]
                }
            };
            names.push(spec.name.clone());
            tensors.extend(pair_keys(&module).into_iter().zip(pair));
        }
        names.sort();
        config.target_parameters = (!names.is_empty()).then_some(names);
        check(&tensors)?;
        let params = tensors
            .iter()
            .map(|(key, tensor)| Param::new(key.clone(), tensor, true));
        Ok(VllmAdapter {
            params: params.collect::<Result<_>>()?,
            config,
            max_rank,
            added,
        })
    }
}

/// A pair as one of rank `r` for each of the experts, whose B has a factor: vLLM reads one rank and one scale.
fn alike(pair: &Pair, (r, experts): (usize, usize), scale: f64) -> Result<[Tensor; 2]> {
    let ((ranks, inputs), (outputs, _)) = (pair.a.dims2()?, pair.b.dims2()?);
    let b = match scale == 1.0 {
        true => pair.b.clone(),
        false => (pair.b * scale)?,
    };
    let own = ranks / experts;
    if own == r {
        return Ok([pair.a.clone(), b]);
    }
    let a = pair.a.reshape((experts, own, inputs))?;
    let a = a.pad_with_zeros(1, 0, r - own)?;
    let b = b.reshape((outputs, own, experts))?;
    let b = b.pad_with_zeros(1, 0, r - own)?;
    Ok([
        a.reshape((experts * r, inputs))?,
        b.reshape((outputs, r * experts))?,
    ])
}

/// Checks by names alone what vLLM asserts while it loads: a pair for every module, and for experts both modules.
fn check(tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for key in tensors.keys() {
        let module = ["A", "B"].into_iter().find_map(|matrix| {
            key.strip_prefix(PREFIX)?
                .strip_suffix(&format!(".lora_{matrix}.weight"))
        });
        let module = module.with_context(|| format!("{key}: no name that vLLM reads"))?;
        let mut wanted = vec![module.to_owned()];
        if let Some(experts) = module.strip_suffix(".base_layer") {
            wanted.push(experts.to_owned());
        } else if module.ends_with(".experts") {
            wanted.push(format!("{module}.base_layer"));
        }
        for key in wanted.iter().flat_map(|module| pair_keys(module)) {
            ensure!(
                tensors.contains_key(&key),
                "{key} is missing, which vLLM wants"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::save;
    use super::*;
    use crate::adapter::testing::{goldens, tiny};

    fn open(name: &str) -> Adapter {
        Adapter::open(&goldens().join(format!("adapter_grad_{name}")), &tiny()).unwrap()
    }

    /// An adapter whose experts have no pair of one matrix, as PEFT writes it.
    fn without(adapter: &Adapter, left_out: ExpertMatrix) -> (Vec<Arc<Param>>, PeftConfig) {
        let mut targets = adapter.targets.clone();
        targets.experts.retain(|(_, matrix)| *matrix != left_out);
        let mut params = Vec::new();
        for (key, tensor) in adapter.tensors() {
            if !key.contains(".experts.") {
                params.push(Param::new(key.clone(), tensor, true).unwrap());
            }
        }
        let mut names = Vec::new();
        for (layer, matrix) in &targets.experts {
            let pair = adapter.expert_pair(*layer, *matrix).unwrap();
            let module = expert_module(&adapter.list, &targets, *layer, *matrix).unwrap();
            for (key, tensor) in pair_keys(&module).into_iter().zip([pair.a, pair.b]) {
                params.push(Param::new(key, tensor, true).unwrap());
            }
            let spec = adapter.list.weight(Some(*layer), Role::Experts(*matrix));
            names.push(spec.unwrap().name.clone());
        }
        let config = PeftConfig {
            target_parameters: Some(names),
            ..adapter.config.clone()
        };
        (params, config)
    }

    /// Whichever matrices are trained, the result has both pairs of each layer where vLLM looks for them, can be read, and merges to
    /// the same bits.
    #[test]
    fn vllm_finds_both_pairs_and_the_adapter_computes_the_same() {
        let golden = open("attn_experts");
        for left_out in [None, Some(ExpertMatrix::GateUp), Some(ExpertMatrix::Down)] {
            let dir = tempfile::tempdir().unwrap();
            let adapter = match left_out {
                None => open("attn_experts"),
                Some(matrix) => {
                    let (params, config) = without(&golden, matrix);
                    save(dir.path(), &params, &config).unwrap();
                    Adapter::open(dir.path(), &tiny()).unwrap()
                }
            };
            let made = adapter.for_vllm().unwrap();
            assert_eq!(made.added.len(), if left_out.is_some() { 2 } else { 0 });
            assert_eq!(made.max_rank, 8);
            let out = tempfile::tempdir().unwrap();
            save(out.path(), &made.params, &made.config).unwrap();
            let text = std::fs::read_to_string(out.path().join("adapter_config.json")).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            for required in ["r", "lora_alpha", "target_modules"] {
                assert!(
                    json.get(required).is_some_and(|v| !v.is_null()),
                    "{required}"
                );
            }
            let again = Adapter::open(out.path(), &tiny()).unwrap();
            // 8 experts of rank 4, hidden size 64, intermediate size 96.
            for layer in [1, 3] {
                let experts = format!("model.layers.{layer}.mlp.experts");
                for (module, inputs, outputs) in [
                    (format!("{experts}.base_layer"), 64, 192),
                    (experts, 96, 64),
                ] {
                    let [a, b] = pair_keys(&module);
                    assert_eq!(again.tensors()[&a].dims(), [32, inputs], "{a}");
                    assert_eq!(again.tensors()[&b].dims(), [outputs, 32], "{b}");
                }
            }
            for spec in adapter.list.iter() {
                let base = Tensor::ones(spec.shape.as_slice(), DType::BF16, &Device::Cpu).unwrap();
                let merged = |adapter: &Adapter| {
                    let merged = adapter.merged_weight(&spec.name, &base).unwrap();
                    let merged = merged.unwrap_or_else(|| base.clone());
                    let flat = merged.flatten_all().unwrap();
                    flat.to_vec1::<half::bf16>().unwrap()
                };
                assert!(merged(&adapter) == merged(&again), "{}", spec.name);
            }
        }
    }

    /// Updates of several ranks and scales become ones of the greatest rank and one scale, which add the same.
    #[test]
    fn ranks_and_scales_become_one() {
        let golden = open("attn_experts");
        let mut config = golden.config.clone();
        let mut json = config.to_json();
        json["rank_pattern"] = serde_json::json!({"v_proj": 2, "1.mlp.experts.down_proj": 3});
        json["alpha_pattern"] = serde_json::json!({"1.mlp.experts.down_proj": 10, "o_proj": 4});
        config.patterns = Patterns::parse(json.as_object().unwrap()).unwrap();
        let thin = |key: &str, tensor: &Tensor| {
            let (rank, experts) = match key {
                _ if key.contains("v_proj") => (2, 1),
                // Down is the outer one of two matrices.
                _ if key.contains("layers.1.mlp.experts.lora") => (3, 8),
                _ => return tensor.clone(),
            };
            let (rows, columns) = tensor.dims2().unwrap();
            let whole = match key.contains("lora_A") {
                true => tensor.reshape((experts, 4, columns)).unwrap(),
                false => tensor.reshape((rows, 4, experts)).unwrap(),
            };
            let thin = whole.narrow(1, 0, rank).unwrap().contiguous().unwrap();
            match key.contains("lora_A") {
                true => thin.reshape((experts * rank, columns)).unwrap(),
                false => thin.reshape((rows, rank * experts)).unwrap(),
            }
        };
        let params = golden.tensors().iter();
        let params = params.map(|(key, t)| Param::new(key.clone(), &thin(key, t), true).unwrap());
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &params.collect::<Vec<_>>(), &config).unwrap();
        let adapter = Adapter::open(dir.path(), &tiny()).unwrap();
        assert_eq!(adapter.targets.own.len(), 9);
        let made = adapter.for_vllm().unwrap();
        assert_eq!((made.config.r, made.config.lora_alpha), (4, 8.0));
        let out = tempfile::tempdir().unwrap();
        save(out.path(), &made.params, &made.config).unwrap();
        let again = Adapter::open(out.path(), &tiny()).unwrap();
        assert!(again.targets.own.is_empty());
        let mut apart = 0;
        for spec in adapter.list.iter() {
            let base = Tensor::ones(spec.shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
            let merged = |adapter: &Adapter| {
                let merged = adapter.merged_weight(&spec.name, &base).unwrap();
                let merged = merged.unwrap_or_else(|| base.clone());
                merged.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let (ours, theirs) = (merged(&adapter), merged(&again));
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() <= 1e-5 * a.abs(), "{}: {a} {b}", spec.name);
            }
            apart += usize::from(ours != merged(&golden));
        }
        // Of four layers v and o, and of one the experts.
        assert_eq!(apart, 9);
    }

    #[test]
    fn what_vllm_does_not_take_is_refused_by_name() {
        let error = |adapter: &Adapter| adapter.for_vllm().err().unwrap().to_string();
        assert!(error(&open("attn_dora")).starts_with("use_dora is true"));
        let mut adapter = open("attn");
        adapter
            .targets
            .linears
            .push("model.layers.0.mlp.router".to_owned());
        assert!(error(&adapter).starts_with("router carries an update"));
        let mut adapter = open("attn");
        adapter.targets.modules_to_save.push("lm_head".to_owned());
        assert!(error(&adapter).starts_with("lm_head stored whole"));
        let mut adapter = open("attn");
        adapter.config.r = 600;
        assert!(error(&adapter).starts_with("r is 600"));
        assert_eq!(open("attn_rslora").for_vllm().unwrap().added.len(), 0);
    }
}
