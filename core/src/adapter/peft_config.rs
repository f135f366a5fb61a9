//! `adapter_config.json`, read and written as PEFT 0.18 and later do.

use super::inventory::{is_suffix, modules};
use super::targets::Wanted;
use crate::model::{Config, Init, LoraSettings, Targets};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the file.
pub const FILE: &str = "adapter_config.json";

/// The release whose file layout is written.
const PEFT_VERSION: &str = "0.21.2";

/// From this many names on PEFT writes the shortest unambiguous ends of them.
const CONDENSE_FROM: usize = 20;

/// Which modules carry an update.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetModules {
    /// A pattern for the whole path.
    Regex(String),
    /// Names or ends of names, sorted.
    Names(Vec<String>),
}

/// The fields of `adapter_config.json` that change what an adapter computes; the others are written with PEFT's
/// defaults, and refused when read with another value.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The base model's path or name.
    pub base_model: Option<String>,
    /// Rank.
    pub r: usize,
    /// Alpha.
    pub lora_alpha: f64,
    /// Dropout on the inputs of A.
    pub lora_dropout: f64,
    /// `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    /// DoRA.
    pub use_dora: bool,
    /// How A starts.
    pub init: Init,
    /// Linear layers.
    pub target_modules: Option<TargetModules>,
    /// Expert parameters.
    pub target_parameters: Option<Vec<String>>,
    /// Modules stored whole.
    pub modules_to_save: Option<Vec<String>>,
}

impl PeftConfig {
    /// The configuration of a new adapter, with target names as PEFT would write them.
    pub fn new(
        config: &Config,
        wanted: &Wanted,
        targets: &Targets,
        settings: &LoraSettings,
        base_model: Option<String>,
    ) -> Self {
        let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
        let sorted = |list: &[String]| {
            let set: BTreeSet<String> = list.iter().cloned().collect();
            some(set.into_iter().collect())
        };
        let target_modules = match &wanted.regex {
            Some(pattern) if wanted.modules.is_empty() => {
                Some(TargetModules::Regex(pattern.clone()))
            }
            _ if wanted.regex.is_some() || wanted.modules.iter().any(|m| m == "all-linear") => {
                sorted(&targets.linears).map(TargetModules::Names)
            }
            _ => sorted(&wanted.modules).map(TargetModules::Names),
        };
        Self {
            base_model,
            r: settings.rank,
            lora_alpha: settings.alpha,
            lora_dropout: settings.dropout,
            use_rslora: settings.use_rslora,
            use_dora: settings.use_dora,
            init: settings.init,
            target_modules: target_modules.map(|t| condensed(config, t)),
            target_parameters: some(wanted.parameters.clone()),
            modules_to_save: some(saved_names(config, &wanted.save, targets)),
        }
    }

    /// The numbers of the update; `seed` starts whatever is not read from a file.
    pub fn settings(&self, seed: u64) -> LoraSettings {
        LoraSettings {
            rank: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            init: self.init,
            seed,
        }
    }

    /// What was targeted, to be resolved again.
    pub fn wanted(&self) -> Wanted {
        let (modules, regex) = match &self.target_modules {
            Some(TargetModules::Names(names)) => (names.clone(), None),
            Some(TargetModules::Regex(pattern)) => (Vec::new(), Some(pattern.clone())),
            None => (Vec::new(), None),
        };
        Wanted {
            modules,
            regex,
            parameters: self.target_parameters.clone().unwrap_or_default(),
            save: self.modules_to_save.clone().unwrap_or_default(),
        }
    }

    /// The whole file, fields in PEFT's order.
    pub fn to_json(&self) -> Value {
        let whole = self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e15;
        let alpha = match whole {
            true => json!(self.lora_alpha as i64),
            false => json!(self.lora_alpha),
        };
        let init = match self.init {
            Init::Kaiming => json!(true),
            Init::Gaussian => json!("gaussian"),
        };
        let targets = match &self.target_modules {
            Some(TargetModules::Names(names)) => json!(names),
            Some(TargetModules::Regex(pattern)) => json!(pattern),
            None => Value::Null,
        };
        let fields = [
            ("alora_invocation_tokens", Value::Null),
            ("alpha_pattern", json!({})),
            ("arrow_config", Value::Null),
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", json!(self.base_model)),
            ("bias", json!("none")),
            ("corda_config", Value::Null),
            ("ensure_weight_tying", json!(false)),
            ("eva_config", Value::Null),
            ("exclude_modules", Value::Null),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", init),
            ("kasa_config", Value::Null),
            ("layer_replication", Value::Null),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", Value::Null),
            ("loftq_config", json!({})),
            ("lora_alpha", alpha),
            ("lora_bias", json!(false)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("lora_ga_config", Value::Null),
            ("megatron_config", Value::Null),
            ("megatron_core", json!("megatron.core")),
            ("modules_to_save", json!(self.modules_to_save)),
            ("monteclora_config", Value::Null),
            ("peft_type", json!("LORA")),
            ("peft_version", json!(PEFT_VERSION)),
            ("qalora_group_size", json!(16)),
            ("r", json!(self.r)),
            ("rank_pattern", json!({})),
            ("revision", Value::Null),
            ("target_modules", targets),
            ("target_parameters", json!(self.target_parameters)),
            ("task_type", json!("CAUSAL_LM")),
            ("trainable_token_indices", Value::Null),
            ("use_bdlora", Value::Null),
            ("use_dora", json!(self.use_dora)),
            ("use_qalora", json!(false)),
            ("use_rslora", json!(self.use_rslora)),
            ("velora_config", Value::Null),
        ];
        let map: Map<String, Value> = fields.map(|(k, v)| (k.to_owned(), v)).into_iter().collect();
        Value::Object(map)
    }

    /// Writes `adapter_config.json` into `dir`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(&self.to_json())?;
        std::fs::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Reads `adapter_config.json` from `dir`.
    ///
    /// # Errors
    /// It is missing, malformed, or of an adapter that is not plain LoRA, rsLoRA or DoRA.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: cannot be read; is this the folder of an adapter?",
                path.display()
            )
        })?;
        let json: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display()))?;
        Self::parse(&json).with_context(|| path.display().to_string())
    }

    fn parse(json: &Value) -> Result<Self> {
        let kind = json.get("peft_type").and_then(Value::as_str);
        ensure!(
            kind == Some("LORA"),
            "peft_type is {kind:?}; only \"LORA\" adapters can be used"
        );
        refuse_other_kinds(json)?;
        let number = |key: &str, default: f64| match json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .with_context(|| format!("{key} is {value}, expected a number")),
        };
        let r = json.get("r").and_then(Value::as_u64).filter(|r| *r > 0);
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            base_model: text(json, "base_model_name_or_path"),
            r: r.context("r (the rank) is missing or no positive integer")? as usize,
            lora_alpha: number("lora_alpha", 8.0)?,
            lora_dropout: number("lora_dropout", 0.0)?,
            use_rslora: flag("use_rslora"),
            use_dora: flag("use_dora"),
            // How A started does not matter any more to an adapter that is read, unless it changed the base.
            init: match json.get("init_lora_weights").and_then(Value::as_str) {
                None => Init::Kaiming,
                Some("gaussian") => Init::Gaussian,
                Some(kind @ ("pissa" | "olora" | "corda" | "loftq")) => {
                    bail!(
                        "init_lora_weights is {kind:?}, which changes the base model; convert the adapter to plain LoRA first"
                    )
                }
                Some(_) => Init::Kaiming,
            },
            target_modules: match json.get("target_modules") {
                Some(Value::String(pattern)) if pattern != "all-linear" => {
                    Some(TargetModules::Regex(pattern.clone()))
                }
                _ => names(json, "target_modules")?.map(|mut names| {
                    names.sort();
                    TargetModules::Names(names)
                }),
            },
            target_parameters: names(json, "target_parameters")?,
            modules_to_save: names(json, "modules_to_save")?,
        })
    }
}

/// Names every field that asks for something else than plain LoRA.
fn refuse_other_kinds(json: &Value) -> Result<()> {
    let refused = [
        "alora_invocation_tokens",
        "alpha_pattern",
        "arrow_config",
        "fan_in_fan_out",
        "kasa_config",
        "layer_replication",
        "lora_bias",
        "rank_pattern",
        "trainable_token_indices",
        "use_bdlora",
        "use_qalora",
    ];
    for key in refused {
        let unset = match json.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        ensure!(unset, "{key} is {}, which is not supported", json[key]);
    }
    let bias = json.get("bias").and_then(Value::as_str).unwrap_or("none");
    ensure!(
        bias == "none",
        "bias is {bias:?}; only \"none\" is supported"
    );
    Ok(())
}

fn text(json: &Value, key: &str) -> Option<String> {
    json.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn names(json: &Value, key: &str) -> Result<Option<Vec<String>>> {
    let wrong = |found: &Value| format!("{key} holds {found}, expected names");
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(one)) => Ok(Some(vec![one.clone()])),
        Some(Value::Array(list)) => {
            let name = |v: &Value| v.as_str().map(str::to_owned).with_context(|| wrong(v));
            Ok(Some(list.iter().map(name).collect::<Result<_>>()?))
        }
        Some(other) => bail!(wrong(other)),
    }
}

/// PEFT knows no `all-norm`: such entries are written as the modules they stand for.
fn saved_names(config: &Config, wanted: &[String], targets: &Targets) -> Vec<String> {
    let special = wanted.iter().any(|w| w.starts_with("all-"));
    match special {
        true => match condensed(
            config,
            TargetModules::Names(targets.modules_to_save.clone()),
        ) {
            TargetModules::Names(names) => names,
            TargetModules::Regex(_) => Vec::new(),
        },
        false => wanted.to_vec(),
    }
}

/// PEFT's `_find_minimal_target_modules`: many names become the shortest ends that match no other module.
fn condensed(config: &Config, targets: TargetModules) -> TargetModules {
    let TargetModules::Names(names) = &targets else {
        return targets;
    };
    if names.len() < CONDENSE_FROM {
        return targets;
    }
    let is_target = |path: &str| names.iter().any(|name| is_suffix(path, name));
    let others: BTreeSet<String> = modules(config)
        .iter()
        .filter(|m| !is_target(&m.path))
        .flat_map(|m| suffixes(&m.path))
        .collect();
    let by_suffixes: BTreeMap<Vec<String>, &String> =
        names.iter().map(|name| (suffixes(name), name)).collect();
    let mut required: BTreeSet<String> = BTreeSet::new();
    for (suffixes, name) in by_suffixes {
        let covered = |required: &BTreeSet<String>| {
            required
                .iter()
                .any(|end| name.ends_with(&format!(".{end}")))
        };
        for suffix in suffixes {
            if !required.contains(&suffix) && !others.contains(&suffix) && !covered(&required) {
                required.insert(suffix);
                break;
            }
        }
    }
    if required.is_empty() || required.len() >= names.len() {
        return targets;
    }
    TargetModules::Names(required.into_iter().collect())
}

/// Ends of a dotted name, the shortest first.
fn suffixes(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split('.').collect();
    (0..parts.len())
        .rev()
        .map(|i| parts[i..].join("."))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::resolve;
    use crate::adapter::testing::{goldens, tiny};

    fn settings() -> LoraSettings {
        LoraSettings {
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 0,
        }
    }

    fn written(config: &Config, wanted: &Wanted, settings: &LoraSettings) -> PeftConfig {
        let targets = resolve(config, wanted).unwrap();
        let base = Some("openai/gpt-oss-tiny-golden".to_owned());
        PeftConfig::new(config, wanted, &targets, settings, base)
    }

    #[test]
    fn files_are_those_of_peft_to_the_byte() {
        let all = Wanted::from_names(vec!["all-linear".into()]);
        let parameters = [1, 3]
            .iter()
            .flat_map(|n| ["down", "gate_up"].map(|p| format!("{n}.mlp.experts.{p}_proj")))
            .collect();
        let experts = Wanted {
            parameters,
            ..all.clone()
        };
        let plain = settings();
        let rslora = LoraSettings {
            use_rslora: true,
            ..plain
        };
        let dora = LoraSettings {
            use_dora: true,
            ..plain
        };
        for (name, wanted, settings) in [
            ("attn", &all, plain),
            ("attn_experts", &experts, plain),
            ("attn_rslora", &all, rslora),
            ("attn_dora", &all, dora),
        ] {
            let golden = goldens().join(format!("adapter_grad_{name}"));
            let ours = written(&tiny(), wanted, &settings);
            let dir = tempfile::tempdir().unwrap();
            ours.write(dir.path()).unwrap();
            let bytes = |dir: &Path| std::fs::read_to_string(dir.join(FILE)).unwrap();
            assert_eq!(bytes(dir.path()), bytes(&golden), "{name}");
            assert_eq!(PeftConfig::read(&golden).unwrap(), ours, "{name}");
        }
    }

    #[test]
    fn many_names_become_their_ends() {
        let mut config = tiny();
        config.num_hidden_layers = 24;
        config.sliding = vec![true; 24];
        let names = |wanted: &[&str]| {
            let wanted = Wanted::from_names(wanted.iter().map(|w| (*w).to_owned()).collect());
            written(&config, &wanted, &settings()).target_modules
        };
        let expected = ["k_proj", "o_proj", "q_proj", "v_proj"].map(str::to_owned);
        let expected = Some(TargetModules::Names(expected.to_vec()));
        assert_eq!(names(&["all-linear"]), expected);
        let short = Some(TargetModules::Names(vec!["q_proj".to_owned()]));
        assert_eq!(names(&["q_proj"]), short);
    }

    #[test]
    fn other_kinds_of_adapters_are_refused() {
        let base = PeftConfig::read(&goldens().join("adapter_grad_attn"))
            .unwrap()
            .to_json();
        for (key, value) in [
            ("peft_type", json!("LOHA")),
            ("rank_pattern", json!({"q_proj": 8})),
            ("bias", json!("all")),
            ("r", json!(0)),
            ("init_lora_weights", json!("pissa")),
            ("lora_alpha", json!("much")),
        ] {
            let mut json = base.clone();
            json[key] = value;
            let error = format!("{:#}", PeftConfig::parse(&json).unwrap_err());
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
