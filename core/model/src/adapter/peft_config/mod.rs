//! `adapter_config.json`, read and written as PEFT does.

mod file;
mod names;

use super::fields;
use super::patterns::{self, Patterns};
use super::targets::TargetSpec;
use crate::families::ModelConfig;
use crate::model::{Init, LoraSettings, Targets};
use anyhow::{Context, Result, ensure};
use apus_base::limits::MAX_RANK;
use apus_sdk::small_file::{self, Limit};
use file::File;
use names::{condensed, saved_names};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the file.
pub const FILE: &str = "adapter_config.json";

/// Which modules carry an update.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetModules {
    /// A pattern for the whole path.
    Regex(String),
    /// Names or ends of names, sorted.
    Names(Vec<String>),
}

/// The fields of `adapter_config.json` that change what an adapter computes; what becomes of the others is decided in
/// `fields`.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The base model's path or name.
    pub base_model: Option<String>,
    /// Rank.
    pub r: usize,
    /// Alpha.
    pub lora_alpha: f64,
    /// The ranks and alphas of targets that have others.
    pub patterns: Patterns,
    /// Dropout on the inputs of A.
    pub lora_dropout: f64,
    /// Whether the scale is `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    /// Whether the update is DoRA.
    pub use_dora: bool,
    /// How A is initialised.
    pub init: Init,
    /// Linear layers.
    pub target_modules: Option<TargetModules>,
    /// Expert parameters.
    pub target_parameters: Option<Vec<String>>,
    /// Modules that are trained and stored whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Linear layers that are left out.
    pub exclude_modules: Option<TargetModules>,
    /// The layers in which names of `target_modules` are looked for; all of them if it is not set.
    pub layers: Option<Vec<usize>>,
}

impl PeftConfig {
    /// The configuration of a new adapter, with target names as PEFT would write them.
    pub fn new(
        config: &ModelConfig,
        wanted: &TargetSpec,
        targets: &Targets,
        settings: &LoraSettings,
        base_model: Option<String>,
    ) -> Self {
        let list = &config.tensors();
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
            patterns: Patterns::of(targets, settings),
            lora_dropout: settings.dropout,
            use_rslora: settings.use_rslora,
            use_dora: settings.use_dora,
            init: settings.init,
            target_modules: target_modules.map(|t| condensed(list, t)),
            target_parameters: some(wanted.parameters.clone()),
            modules_to_save: some(saved_names(list, &wanted.save, targets)),
            exclude_modules: None,
            layers: None,
        }
    }

    /// The settings of the update; `seed` is for what is not read from a file.
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

    /// The targets as they were asked for, so that they can be resolved again.
    pub fn target_spec(&self) -> TargetSpec {
        let (modules, regex) = match &self.target_modules {
            Some(TargetModules::Names(names)) => (names.clone(), None),
            Some(TargetModules::Regex(pattern)) => (Vec::new(), Some(pattern.clone())),
            None => (Vec::new(), None),
        };
        TargetSpec {
            modules,
            regex,
            parameters: self.target_parameters.clone().unwrap_or_default(),
            save: self.modules_to_save.clone().unwrap_or_default(),
            blocks: false,
        }
    }

    /// The whole file, with the fields in PEFT's order. Fields that older releases of PEFT do not know are written only if
    /// they differ from their default.
    pub fn to_json(&self) -> Value {
        let init = match self.init {
            Init::Kaiming => json!(true),
            Init::Gaussian => json!("gaussian"),
        };
        let fields = [
            ("alpha_pattern", self.patterns.alphas_json()),
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", json!(self.base_model)),
            ("bias", json!("none")),
            (
                "exclude_modules",
                targets_json(self.exclude_modules.as_ref()),
            ),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", init),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", json!(self.layers)),
            ("loftq_config", json!({})),
            ("lora_alpha", patterns::alpha_json(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("megatron_config", Value::Null),
            ("megatron_core", json!("megatron.core")),
            ("modules_to_save", json!(self.modules_to_save)),
            ("peft_type", json!("LORA")),
            ("r", json!(self.r)),
            ("rank_pattern", self.patterns.ranks_json()),
            ("revision", Value::Null),
            ("target_modules", targets_json(self.target_modules.as_ref())),
            ("target_parameters", json!(self.target_parameters)),
            ("task_type", json!("CAUSAL_LM")),
            ("use_dora", json!(self.use_dora)),
            ("use_rslora", json!(self.use_rslora)),
        ];
        let map: Map<String, Value> = fields.map(|(k, v)| (k.to_owned(), v)).into_iter().collect();
        Value::Object(fields::written(map))
    }

    /// Writes `adapter_config.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(&self.to_json())?;
        std::fs::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Reads `adapter_config.json` from `dir`, with notes for the user about what may be unexpected.
    ///
    /// # Errors
    /// It is missing, malformed, or of an adapter that is not plain LoRA, rsLoRA or DoRA on an unchanged base model.
    pub fn read(dir: &Path) -> Result<(Self, Vec<String>)> {
        let path = dir.join(FILE);
        let text =
            small_file::text(&path, Limit::STORED).context("is this the folder of an adapter?")?;
        let json: Value = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display()))?;
        Self::parse(&json).with_context(|| path.display().to_string())
    }

    fn parse(json: &Value) -> Result<(Self, Vec<String>)> {
        let json = json.as_object().context("expected a JSON object")?;
        let file = File(json);
        let kind = json.get("peft_type").and_then(Value::as_str);
        ensure!(
            kind == Some("LORA"),
            "peft_type is {kind:?}; only \"LORA\" adapters can be used"
        );
        fields::check(json)?;
        let (init, note) = fields::init(json.get("init_lora_weights"))?;
        let mut notes: Vec<String> = note.into_iter().collect();
        let set = |name: &str| json.get(name).filter(|value| !value.is_null());
        if set("velora_config").is_some() {
            notes.push("velora_config is set: PEFT trains such adapters by gradients that it approximates, Apus by the \
                        gradients themselves".to_owned());
        }
        if let Some(revision) = set("revision") {
            notes.push(format!(
                "revision is {revision}: see to it that the base model is that one"
            ));
        }
        let r = json.get("r").and_then(Value::as_u64);
        let r = r.filter(|r| (1..=MAX_RANK as u64).contains(r));
        let pattern = |key: &str| match json.get(key) {
            Some(Value::String(pattern)) if pattern != "all-linear" => {
                Ok(Some(TargetModules::Regex(pattern.clone())))
            }
            _ => anyhow::Ok(file.names(key)?.map(|mut names| {
                names.sort();
                TargetModules::Names(names)
            })),
        };
        let lora_dropout = file.number("lora_dropout", 0.0)?;
        ensure!(
            (0.0..1.0).contains(&lora_dropout),
            "lora_dropout is {lora_dropout}, expected a share from 0 to below 1"
        );
        let config = Self {
            base_model: json
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .map(str::to_owned),
            r: r.with_context(|| {
                let found = json.get("r").unwrap_or(&Value::Null);
                format!("r (the rank) is {found}, expected a whole number from 1 to {MAX_RANK}")
            })? as usize,
            lora_alpha: file.number("lora_alpha", 8.0)?,
            patterns: Patterns::parse(json)?,
            lora_dropout,
            use_rslora: file.flag("use_rslora")?,
            use_dora: file.flag("use_dora")?,
            init,
            target_modules: pattern("target_modules")?,
            target_parameters: file.names("target_parameters")?,
            modules_to_save: file.names("modules_to_save")?,
            exclude_modules: pattern("exclude_modules")?,
            layers: file.layers()?,
        };
        Ok((config, notes))
    }
}

fn targets_json(targets: Option<&TargetModules>) -> Value {
    match targets {
        Some(TargetModules::Names(names)) => json!(names),
        Some(TargetModules::Regex(pattern)) => json!(pattern),
        None => Value::Null,
    }
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

    fn written(config: &ModelConfig, wanted: &TargetSpec, settings: &LoraSettings) -> PeftConfig {
        let targets = resolve(config, wanted).unwrap();
        let base = Some("openai/gpt-oss-tiny-golden".to_owned());
        PeftConfig::new(config, wanted, &targets, settings, base)
    }

    #[test]
    fn files_are_those_of_peft_without_what_nobody_needs() {
        let all = TargetSpec::from_names(vec!["all-linear".into()]);
        let parameters = [1, 3]
            .iter()
            .flat_map(|n| ["down", "gate_up"].map(|p| format!("{n}.mlp.experts.{p}_proj")))
            .collect();
        let experts = TargetSpec {
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
            let text = |dir: &Path| std::fs::read_to_string(dir.join(FILE)).unwrap();
            let mut theirs: Map<String, Value> = serde_json::from_str(&text(&golden)).unwrap();
            theirs.remove("peft_version");
            let theirs = serde_json::to_string_pretty(&fields::written(theirs)).unwrap();
            assert_eq!(text(dir.path()), theirs, "{name}");
            assert_eq!(PeftConfig::read(&golden).unwrap(), (ours, vec![]), "{name}");
        }
    }

    /// Keys of the oldest release of PEFT that can read such an adapter: newer ones stop it, or are warned about.
    #[test]
    fn no_key_that_older_releases_do_not_know() {
        let keys = |settings: &LoraSettings, parameters: &[&str]| {
            let wanted = TargetSpec {
                parameters: parameters.iter().map(|p| (*p).to_owned()).collect(),
                ..TargetSpec::from_names(vec!["q_proj".into()])
            };
            let json = written(&tiny(), &wanted, settings).to_json();
            let keys = json.as_object().unwrap().keys().cloned();
            keys.collect::<BTreeSet<String>>()
        };
        let plain = settings();
        let of_0_8 = [
            "alpha_pattern",
            "auto_mapping",
            "base_model_name_or_path",
            "bias",
            "fan_in_fan_out",
            "inference_mode",
            "init_lora_weights",
            "layers_pattern",
            "layers_to_transform",
            "loftq_config",
            "lora_alpha",
            "lora_dropout",
            "megatron_config",
            "megatron_core",
            "modules_to_save",
            "peft_type",
            "r",
            "rank_pattern",
            "revision",
            "target_modules",
            "task_type",
            "use_rslora",
        ];
        let of_0_8: BTreeSet<String> = of_0_8.map(str::to_owned).into();
        assert_eq!(keys(&plain, &[]), of_0_8);
        let more = |found: BTreeSet<String>| found.difference(&of_0_8).cloned().collect::<Vec<_>>();
        let dora = LoraSettings {
            use_dora: true,
            ..plain
        };
        assert_eq!(more(keys(&dora, &[])), ["use_dora"]);
        let experts = keys(&plain, &["1.mlp.experts.down_proj"]);
        assert_eq!(more(experts), ["target_parameters"]);
    }

    #[test]
    fn many_names_become_their_ends() {
        let mut config = tiny();
        let first = config.architecture.layers[0].clone();
        config.architecture.layers = vec![first; 24];
        let names = |wanted: &[&str]| {
            let wanted = TargetSpec::from_names(wanted.iter().map(|w| (*w).to_owned()).collect());
            written(&config, &wanted, &settings()).target_modules
        };
        let expected = ["k_proj", "o_proj", "q_proj", "v_proj"].map(str::to_owned);
        let expected = Some(TargetModules::Names(expected.to_vec()));
        assert_eq!(names(&["all-linear"]), expected);
        let short = Some(TargetModules::Names(vec!["q_proj".to_owned()]));
        assert_eq!(names(&["q_proj"]), short);
    }

    #[test]
    fn other_kinds_of_adapters_and_wrong_values_are_refused() {
        let base = PeftConfig::read(&goldens().join("adapter_grad_attn")).unwrap();
        let base = base.0.to_json();
        for (key, value) in [
            ("peft_type", json!("LOHA")),
            ("rank_pattern", json!({"q_proj": 0})),
            ("alpha_pattern", json!(["q_proj"])),
            ("bias", json!("all")),
            ("r", json!(0)),
            ("r", json!(-4)),
            ("r", json!(4.5)),
            ("r", json!(MAX_RANK + 1)),
            ("r", json!(u64::MAX)),
            ("r", json!(null)),
            ("init_lora_weights", json!("pissa")),
            ("lora_alpha", json!("much")),
            ("lora_dropout", json!(1.0)),
            ("lora_dropout", json!(-0.1)),
            ("use_rslora", json!("yes")),
            ("use_dora", json!(1)),
            ("target_modules", json!([1])),
            ("modules_to_save", json!({"a": 1})),
            ("layers_to_transform", json!(["0"])),
            ("layers_to_transform", json!(-1)),
            ("layers_pattern", json!(["h"])),
            ("use_everything", json!(true)),
        ] {
            let mut json = base.clone();
            json[key] = value.clone();
            let error = format!("{:#}", PeftConfig::parse(&json).unwrap_err());
            assert!(error.contains(key), "{key} {value}: {error}");
        }
    }

    #[test]
    fn what_is_otherwise_than_one_might_think_is_said() {
        let base = PeftConfig::read(&goldens().join("adapter_grad_attn")).unwrap();
        for (key, value) in [
            ("velora_config", json!({"num_groups": 32})),
            ("revision", json!("v2")),
            ("init_lora_weights", json!("mica")),
        ] {
            let mut json = base.0.to_json();
            json[key] = value;
            let (_, notes) = PeftConfig::parse(&json).unwrap();
            assert!(notes.len() == 1 && notes[0].contains(key), "{notes:?}");
        }
    }
}
