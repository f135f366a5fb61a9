//! From a command line to a typed configuration: the TOML file first, flags over it.

use super::cli::command;
use super::flag::{Command, Flag, Kind, chain};
use super::{Config, FLAGS};
use crate::text_file;
use anyhow::{Context, Result, anyhow, bail};
use clap::ArgMatches;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    /// The values.
    pub config: T,
    /// Flags that were written, in the file or on the command line.
    pub given: BTreeSet<String>,
    /// A line for each written flag that does nothing.
    pub notes: Vec<String>,
}

impl<T> Resolved<T> {
    /// Whether a flag was written.
    pub fn given(&self, flag: &str) -> bool {
        self.given.contains(flag)
    }
}

/// Options of components, `--optimizer.momentum 0.95`, by component and option.
pub type ComponentOptions = Vec<(String, String, Vec<String>)>;

/// Takes the options of components out of a command line, which clap reads the rest of.
pub fn split_options(words: &[String]) -> (Vec<String>, ComponentOptions) {
    let (mut rest, mut options) = (Vec::new(), Vec::new());
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").unwrap_or_default();
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        match name.split_once('.') {
            Some((component, option)) => {
                let mut values: Vec<String> = value.into_iter().collect();
                while let Some(value) = words.next_if(|word| !word.starts_with("--")) {
                    values.push(value.clone());
                }
                options.push((component.replace('-', "_"), option.to_owned(), values));
            }
            None => rest.push(word.clone()),
        }
    }
    (rest, options)
}

/// Resolves what clap read of a command.
///
/// # Errors
/// An unknown key of the file (with the nearest name), or a value of the wrong kind.
pub fn from_matches<T: Config>(
    matches: &ArgMatches,
    options: &ComponentOptions,
) -> Result<Resolved<T>> {
    let mut merged = Merged::new(T::COMMAND);
    let texts = |id: &str| -> Vec<String> {
        let words = matches.get_many::<String>(id);
        words.into_iter().flatten().cloned().collect()
    };
    let is_config = |file: &String| T::COMMAND != Command::Data || file.ends_with(".toml");
    let (configs, files): (Vec<_>, Vec<_>) = texts("file").into_iter().partition(is_config);
    if let Some(file) = texts("config").first().or(configs.first()) {
        merged.read(Path::new(file))?;
    }
    for flag in FLAGS.iter().filter(|flag| flag.accepted_by(T::COMMAND)) {
        let mut words = texts(flag.name);
        if flag.name == "dataset" {
            words.splice(0..0, files.iter().cloned());
        }
        if matches.contains_id(flag.name) || !words.is_empty() {
            merged.set(flag, flag.parse(&words)?);
        }
    }
    for (component, option, words) in options {
        merged.set_option(component, option, words)?;
    }
    merged.finish()
}

/// Resolves the words after a command.
///
/// # Errors
/// An unknown flag or key (with the nearest name), or a value of the wrong kind.
pub fn from_arguments<T: Config>(words: &[String]) -> Result<Resolved<T>> {
    let (words, options) = split_options(words);
    let matches = command(T::COMMAND)
        .no_binary_name(true)
        .try_get_matches_from(words)?;
    from_matches(&matches, &options)
}

struct Merged {
    command: Command,
    values: Map<String, Value>,
    given: BTreeSet<String>,
    notes: Vec<String>,
}

impl Merged {
    fn new(command: Command) -> Self {
        Self {
            command,
            values: Map::new(),
            given: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    fn flag(&self, name: &str) -> Result<&'static Flag> {
        let mine = || FLAGS.iter().filter(|flag| flag.accepted_by(self.command));
        if let Some(flag) = mine().find(|flag| flag.name == name || flag.aliases.contains(&name)) {
            return Ok(flag);
        }
        let known: Vec<&str> = mine()
            .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
            .collect();
        match nearest(name, &known).first() {
            Some(near) => bail!("there is no {name}; did you mean {near}?"),
            None => bail!("there is no {name}"),
        }
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let text = text_file::read(path)?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| malformed(path, &text, &error))?;
        for (key, value) in table {
            let line = text
                .lines()
                .position(|line| line.trim_start().starts_with(&key));
            let place = || match line {
                Some(line) => format!("{}, line {}, key {key}", path.display(), line + 1),
                None => format!("{}, key {key}", path.display()),
            };
            let flag = self.flag(&key.replace('-', "_")).with_context(place)?;
            let value = fit(flag, serde_json::to_value(value)?).with_context(place)?;
            self.set(flag, value);
        }
        Ok(())
    }

    fn set(&mut self, flag: &Flag, value: Value) {
        if let Some(why) = flag.idle {
            self.notes
                .push(format!("{}: nothing to do here: {why}", flag.name));
            return;
        }
        // A name on the command line keeps options that the file gave for the same component.
        if flag.kind == Kind::Component
            && let (Some(Value::Object(old)), Value::Object(new)) =
                (self.values.get_mut(flag.name), &value)
            && old.get("name") == new.get("name")
        {
            old.extend(new.clone());
        } else {
            self.values.insert(flag.name.to_owned(), value);
        }
        self.given.insert(flag.name.to_owned());
    }

    /// `--optimizer.momentum 0.95`.
    fn set_option(&mut self, component: &str, option: &str, words: &[String]) -> Result<()> {
        let flag = self
            .flag(component)
            .with_context(|| format!("unknown flag --{component}.{option}"))?;
        let Some(given) = self.values.get_mut(flag.name) else {
            bail!(
                "--{component}.{option}: give --{} NAME before its options",
                flag.name
            );
        };
        let (table, option) = match (flag.kind, given) {
            (Kind::Component, Value::Object(table)) => (table, option),
            (Kind::Components | Kind::Chain, Value::Array(items)) => one_of(flag, items, option)?,
            _ => bail!("--{component}.{option}: {} takes no options", flag.name),
        };
        let value = match words {
            [] => Value::Bool(true),
            [word] => serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.clone())),
            words => words.iter().map(String::as_str).collect(),
        };
        table.insert(option.to_owned(), value);
        Ok(())
    }

    fn finish<T: Config>(self) -> Result<Resolved<T>> {
        let config = serde_json::from_value(Value::Object(self.values))
            .context("a value does not fit its flag")?;
        Ok(Resolved {
            config,
            given: self.given,
            notes: self.notes,
        })
    }
}

/// The component that `--callbacks.NAME.option` means; with one alone, its name may be left out.
fn one_of<'a>(
    flag: &Flag,
    items: &'a mut [Value],
    option: &'a str,
) -> Result<(&'a mut Map<String, Value>, &'a str)> {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let names: Vec<String> = items.iter().filter_map(name).collect();
    let (at, rest) = match option.split_once('.') {
        Some((wanted, rest)) => (names.iter().position(|name| name == wanted), rest),
        None => ((items.len() == 1).then_some(0), option),
    };
    match at.and_then(|at| items.get_mut(at)) {
        Some(Value::Object(table)) => Ok((table, rest)),
        _ => bail!(
            "--{0}.{option}: which of {1}? Write --{0}.NAME.{rest}",
            flag.name,
            names.join(", ")
        ),
    }
}

/// Checks a value of a file against the kind of its flag; a single text serves as a list.
fn fit(flag: &Flag, value: Value) -> Result<Value> {
    let fits = match flag.kind {
        Kind::Bool => value.is_boolean(),
        Kind::Int => value.is_i64() || value.is_u64(),
        Kind::Float => value.is_number(),
        Kind::Text => match &value {
            Value::Number(number) => return Ok(Value::String(number.to_string())),
            Value::Bool(truth) => return Ok(Value::String(truth.to_string())),
            value => value.is_string(),
        },
        Kind::List => match value {
            Value::String(_) => return Ok(Value::Array(vec![value])),
            Value::Array(ref items) => items.iter().all(Value::is_string),
            _ => false,
        },
        Kind::Floats => {
            let items = value.as_array();
            items.is_some_and(|items| items.iter().all(Value::is_number))
        }
        Kind::Json => true,
        Kind::JsonOrFile => value.is_string() || value.is_object(),
        Kind::Component => match &value {
            Value::String(name) => return Ok(serde_json::json!({ "name": name })),
            value => value.get("name").is_some_and(Value::is_string),
        },
        Kind::Components | Kind::Plugins => match value {
            Value::String(_) | Value::Object(_) => return Ok(Value::Array(vec![value])),
            Value::Array(_) => true,
            _ => false,
        },
        Kind::Chain => match value {
            Value::String(text) => return Ok(chain(&text)),
            Value::Object(_) => return Ok(Value::Array(vec![value])),
            Value::Array(_) => true,
            _ => false,
        },
    };
    if fits {
        return Ok(value);
    }
    let expected = match flag.kind {
        Kind::Bool => "true or false",
        Kind::Int => "a whole number",
        Kind::Float => "a number",
        Kind::Text => "text",
        Kind::List => "a list of texts",
        Kind::Floats => "a list of numbers",
        Kind::Json => "a value",
        Kind::JsonOrFile => "a table, or the path of a JSON file",
        Kind::Component => "a name, or a table with name and options",
        Kind::Components => "a list of names or tables",
        Kind::Chain => "names with + between them, or a list of names or tables",
        Kind::Plugins => "a list of paths, or of tables with path, sha256 and prefix",
    };
    match crate::train::about::is_secret(flag.name) {
        true => bail!("expected {expected}, found something else, which is not shown"),
        false => bail!("expected {expected}, found {value}"),
    }
}

/// The names most like this one, best first; none that is far off.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Where a file is no TOML, and why. The line itself is not shown, as toml's own words would: it may hold a token.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let path = path.display();
    let Some(span) = error.span() else {
        return anyhow!("{path}: malformed: {}", error.message());
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|&c| c != '\n').count();
    anyhow!(
        "{path}, line {line}, column {column}: malformed: {}",
        error.message()
    )
}

#[cfg(test)]
mod tests {
    use super::super::{ExportConfig, InferConfig, SftConfig};
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn sft(line: &str) -> Resolved<SftConfig> {
        from_arguments(&words(line)).unwrap()
    }

    fn error(line: &str) -> String {
        format!(
            "{:#}",
            from_arguments::<SftConfig>(&words(line)).unwrap_err()
        )
    }

    #[test]
    fn every_field_has_a_flag_and_every_flag_a_field() {
        fn compare<T: Config>() {
            let Value::Object(fields) = serde_json::to_value(T::default()).unwrap() else {
                unreachable!()
            };
            let fields: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
            let flags: BTreeSet<&str> = FLAGS
                .iter()
                .filter(|flag| flag.accepted_by(T::COMMAND) && flag.idle.is_none())
                .map(|flag| flag.name)
                .collect();
            assert_eq!(fields, flags);
        }
        compare::<SftConfig>();
        compare::<InferConfig>();
        compare::<ExportConfig>();
        compare::<super::super::ModelNewConfig>();
        compare::<super::super::BenchConfig>();
        compare::<super::super::DataConfig>();
    }

    #[test]
    fn the_tutorials_commands() {
        let found = sft(
            "--deepspeed zero3 --model /path/to/gpt-oss-20b --dataset /path/to/train.json --train_type lora \
             --torch_dtype bfloat16 --num_train_epochs 35 --per_device_train_batch_size 1 \
             --per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 \
             --target_modules all-linear --gradient_accumulation_steps 16 --eval_steps 50 --save_steps 50 \
             --save_total_limit 2 --logging_steps 5 --max_length 8192 --output_dir output --warmup_ratio 0.05 \
             --dataloader_num_workers 4 --use_liger_kernel true --load_from_cache_file false \
             --loss_scale ignore_empty_think --save_strategy epoch --model_author gxb \
             --model_name gxb-gpt-oss-20b-agent-distill --report_to swanlab --swanlab_project swift-robot",
        );
        let c = &found.config;
        assert_eq!(c.num_train_epochs, 35.0);
        assert_eq!(
            (c.base_lr(), c.accumulation(), c.max_length),
            (1e-4, 16, Some(8192))
        );
        assert_eq!(c.report_to, ["swanlab"]);
        assert_eq!(c.swanlab_project.as_deref(), Some("swift-robot"));
        assert_eq!(found.notes.len(), 5, "{:#?}", found.notes);
        c.check(&|flag| found.given(flag)).unwrap();

        let line = "--adapters v0-20250811-150539/checkpoint-551 --stream true --temperature 0 --max_new_tokens 2048";
        let infer: Resolved<InferConfig> = from_arguments(&words(line)).unwrap();
        assert_eq!(
            (infer.config.temperature, infer.config.stream),
            (Some(0.0), Some(true))
        );
        let line = "--adapters v0-20250811-150539/checkpoint-551 --merge_lora true";
        let export: Resolved<ExportConfig> = from_arguments(&words(line)).unwrap();
        assert!(export.config.merge_lora);
    }

    /// A line with a mistake in it may hold a token: its place is said, not what stands there.
    #[test]
    fn a_malformed_file_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        for (text, place) in [
            ("swanlab_token = \"k-secret\n", "line 1, column"),
            ("a = 1\nswanlab_token = k-secret\n", "line 2, column 17"),
            ("\n\nswanlab_token \"k-secret\"", "line 3, column"),
        ] {
            std::fs::write(&path, text).unwrap();
            let line = format!("--config {}", path.display());
            let error = from_arguments::<SftConfig>(&words(&line)).unwrap_err();
            let error = format!("{error:#}");
            assert!(
                error.contains("run.toml") && error.contains(place),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn both_spellings_dashes_and_equals() {
        let found = sft("--tuner-type=full --eval-steps 7 --max_steps -1 --use_dora");
        assert_eq!(found.config.train_type, "full");
        assert_eq!(found.config.eval_steps, Some(7));
        assert!(found.config.use_dora);
    }

    #[test]
    fn flags_go_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        std::fs::write(
            &file,
            "model = \"m\"\nlora_rank = 4\ntarget_modules = \"q_proj\"\noptimizer = { name = \"lion\", beta1 = 0.8 }\n",
        )
        .unwrap();
        let found = sft(&format!("--config {} --lora_rank 16", file.display()));
        assert_eq!(
            (found.config.lora_rank, found.config.model.as_str()),
            (16, "m")
        );
        assert_eq!(found.config.target_modules, ["q_proj"]);
        let found = sft(&format!("{} --optimizer.beta2 0.9", file.display()));
        let optimizer = found.config.optimizer.unwrap();
        assert_eq!(optimizer.options["beta1"], 0.8);
        assert_eq!(optimizer.options["beta2"], 0.9);
    }

    #[test]
    fn options_of_one_among_several() {
        let found = sft(
            "--callbacks a b --callbacks.b.patience 3 --loss_scale all+x --loss_scale.x.code 2.5",
        );
        assert_eq!(found.config.callbacks[1].options["patience"], 3);
        let scales = &found.config.loss_scale;
        assert_eq!(
            scales.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["all", "x"]
        );
        assert_eq!(scales[1].options["code"], 2.5);
        let found = sft("--loss_scale last_round+my/table.json+x");
        let table = &found.config.loss_scale[1];
        assert_eq!(
            (table.name.as_str(), &table.options["path"]),
            ("json", &"my/table.json".into())
        );
        let found = sft("--metrics m --metrics.order 4 --plugin a.so b.so");
        assert_eq!(found.config.metrics[0].options["order"], 4);
        assert_eq!(found.config.plugins.len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            error("--lora_rnk 8").contains("'--lora_rank'"),
            "{}",
            error("--lora_rnk 8")
        );
        assert!(error("--lora_rank eight").contains("expected a whole number, found \"eight\""));
        assert!(error("--use_dora maybe").contains("expected true or false"));
        assert!(error("a.toml b.toml").contains("unexpected argument"));
        assert!(error("--lora_rank 8 --lora_rank.x 8").contains("takes no options"));
        assert!(error("--optimizer.x 8").contains("give --optimizer NAME before"));
        assert!(error("--callbacks a b --callbacks.x 8").contains("which of a, b?"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        std::fs::write(&file, "model = \"m\"\nlearning_rat = 1e-4\n").unwrap();
        let text = error(&format!("--config {}", file.display()));
        assert!(
            text.contains("line 2") && text.contains("did you mean learning_rate?"),
            "{text}"
        );
        std::fs::write(&file, "lora_rank = \"eight\"\n").unwrap();
        let text = error(&format!("--config {}", file.display()));
        assert!(
            text.contains("line 1, key lora_rank: expected a whole number"),
            "{text}"
        );
        std::fs::write(&file, "lora_rank = \n").unwrap();
        assert!(error(&format!("--config {}", file.display())).contains("line 1"));
    }

    #[test]
    fn contradictions_are_named() {
        let check = |line: &str| {
            let found = sft(&format!("--model m --dataset d {line}"));
            let given = |flag: &str| found.given(flag);
            found
                .config
                .check(&given)
                .and_then(|()| found.config.optimizer_spec(&given).map(drop))
                .unwrap_err()
                .to_string()
        };
        assert!(check("--warmup_ratio 0.1 --warmup_steps 5").contains("warmup_steps"));
        assert!(check("--optimizer adamw --optim sgd").contains("optim"));
        assert!(
            check("--optimizer adamw --optimizer.beta2 0.9 --adam_beta2 0.9")
                .contains("optimizer.beta2")
        );
        assert!(
            check("--use_dora true --target_parameters 1.mlp.experts.down_proj")
                .contains("target_parameters")
        );
        assert!(check("--optim adafactor").contains("adafactor"));
        assert!(
            check("--load_best_model_at_end true --save_steps 5 --eval_steps 2")
                .contains("multiple")
        );
    }
}
