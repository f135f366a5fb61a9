//! Finds in a model the targets that the configuration of a saved adapter names, by PEFT's rules: entries may match
//! nothing, and layers may be left out.

use super::peft_config::{PeftConfig, TargetModules};
use super::targets::{experts, is_suffix, refusal, to_save};
use crate::model::Targets;
use crate::tensors::{Module, ModuleKind, TensorList};
use anyhow::{Context, Result, ensure};
use fancy_regex::Regex;

/// The targets, and a note for each entry that matches nothing in this model.
///
/// # Errors
/// An entry matches a module that cannot carry an adapter here, or a pattern is not a regular expression.
pub fn saved_targets(list: &TensorList, config: &PeftConfig) -> Result<(Targets, Vec<String>)> {
    let mut notes = Vec::new();
    let saved = config.modules_to_save.as_deref().unwrap_or_default();
    let mut modules_to_save = Vec::new();
    for entry in saved {
        match to_save(list, std::slice::from_ref(entry)) {
            Ok(paths) => modules_to_save.extend(paths),
            Err(_) => notes.push(nothing("modules_to_save", entry)),
        }
    }
    modules_to_save.sort();
    modules_to_save.dedup();
    let parameters = config.target_parameters.as_deref().unwrap_or_default();
    let mut targets = Targets {
        linears: linears(list, config, &modules_to_save, &mut notes)?,
        experts: experts(list, parameters)?,
        modules_to_save,
        ..Targets::default()
    };
    targets.own = config
        .patterns
        .numbers(list, &targets, &config.settings(0))?;
    Ok((targets, notes))
}

fn nothing(key: &str, entry: &str) -> String {
    format!("{key} entry {entry:?} matches nothing in this model")
}

fn linears(
    list: &TensorList,
    config: &PeftConfig,
    saved: &[String],
    notes: &mut Vec<String>,
) -> Result<Vec<String>> {
    let excluded = Rule::new("exclude_modules", config.exclude_modules.as_ref())?;
    let wanted = Rule::new("target_modules", config.target_modules.as_ref())?;
    let in_layers = |path: &str| match &config.layers {
        Some(layers) => list
            .layer_of(path)
            .is_some_and(|layer| layers.contains(&layer)),
        None => true,
    };
    let mut found = Vec::new();
    let mut used = vec![false; wanted.entries().len()];
    for module in list.modules() {
        let path = module.path.as_str();
        let entries = wanted.matching(module)?;
        if entries.is_empty() {
            continue;
        }
        entries.iter().for_each(|&entry| used[entry] = true);
        let whole = wanted.entries().iter().any(|entry| entry == path);
        let limited = matches!(wanted, Rule::Names(_)) && !whole && !in_layers(path);
        if limited || !excluded.matching(module)?.is_empty() || saved.iter().any(|s| s == path) {
            continue;
        }
        ensure!(
            module.kind == ModuleKind::Linear,
            "target_modules names {path}, {}",
            refusal(list, module.kind)
        );
        found.push(path.to_owned());
    }
    let unused = wanted.entries().iter().zip(used).filter(|(_, used)| !used);
    notes.extend(unused.map(|(entry, _)| nothing("target_modules", entry)));
    Ok(found)
}

/// The rule by which modules are chosen.
enum Rule {
    Names(Vec<String>),
    /// A regular expression and its text.
    Pattern(Regex, [String; 1]),
}

impl Rule {
    fn new(key: &str, targets: Option<&TargetModules>) -> Result<Self> {
        Ok(match targets {
            None => Self::Names(Vec::new()),
            Some(TargetModules::Names(names)) => Self::Names(names.clone()),
            Some(TargetModules::Regex(pattern)) => {
                let regex = Regex::new(&format!("^(?:{pattern})$"))
                    .with_context(|| format!("{key} {pattern:?} is no regular expression"))?;
                Self::Pattern(regex, [pattern.clone()])
            }
        })
    }

    fn entries(&self) -> &[String] {
        match self {
            Self::Names(names) => names,
            Self::Pattern(_, text) => text,
        }
    }

    /// The entries that match a module.
    fn matching(&self, module: &Module) -> Result<Vec<usize>> {
        let path = module.path.as_str();
        let is_meant = |name: &str| match name {
            "all-linear" => module.kind == ModuleKind::Linear,
            name => is_suffix(path, name),
        };
        Ok(match self {
            Self::Names(names) => {
                let entries = 0..names.len();
                entries.filter(|&i| is_meant(&names[i])).collect()
            }
            Self::Pattern(regex, _) => match regex.is_match(path)? {
                true => vec![0],
                false => Vec::new(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::{goldens, tiny};

    fn config(targets: TargetModules) -> PeftConfig {
        let (golden, _) = PeftConfig::read(&goldens().join("adapter_grad_attn")).unwrap();
        PeftConfig {
            target_modules: Some(targets),
            ..golden
        }
    }

    fn names(list: &[&str]) -> TargetModules {
        TargetModules::Names(list.iter().map(|name| (*name).to_owned()).collect())
    }

    fn found(config: &PeftConfig) -> (Vec<String>, Vec<String>) {
        let (targets, notes) = saved_targets(&tiny().tensors(), config).unwrap();
        (targets.linears, notes)
    }

    #[test]
    fn entries_may_match_nothing_and_are_said() {
        let usual = [
            "q_proj",
            "self_attn.q_proj",
            "v_proj",
            "gate_proj",
            "up_proj",
        ];
        let (linears, notes) = found(&config(names(&usual)));
        assert_eq!(linears.len(), 8);
        assert_eq!(
            notes,
            ["gate_proj", "up_proj"].map(|name| nothing("target_modules", name))
        );
        let saved = PeftConfig {
            modules_to_save: Some(vec!["lm_head".into(), "score".into()]),
            ..config(names(&["q_proj"]))
        };
        let (targets, notes) = saved_targets(&tiny().tensors(), &saved).unwrap();
        assert_eq!(targets.modules_to_save, ["lm_head"]);
        assert_eq!(notes, [nothing("modules_to_save", "score")]);
    }

    #[test]
    fn layers_and_modules_that_are_left_out() {
        let limited = |layers: &[usize], exclude: TargetModules| PeftConfig {
            layers: Some(layers.to_vec()),
            exclude_modules: Some(exclude),
            ..config(names(&[
                "q_proj",
                "model.layers.0.self_attn.v_proj",
                "k_proj",
            ]))
        };
        let (linears, _) = found(&limited(&[1, 3], names(&["3.self_attn.q_proj"])));
        // A whole path is not limited to layers.
        let expected = [
            "0.self_attn.v",
            "1.self_attn.q",
            "1.self_attn.k",
            "3.self_attn.k",
        ];
        assert_eq!(
            linears,
            expected.map(|end| format!("model.layers.{end}_proj"))
        );
        let (linears, _) = found(&limited(&[1], TargetModules::Regex(r".*\.q_proj".into())));
        assert_eq!(linears.len(), 2);
    }

    #[test]
    fn patterns_and_what_carries_no_adapter() {
        let pattern = |text: &str| config(TargetModules::Regex(text.into()));
        let (linears, notes) = found(&pattern(r"model\.layers\.[01]\..*[qo]_proj"));
        assert_eq!((linears.len(), notes.len()), (4, 0));
        let (linears, notes) = found(&pattern("nothing"));
        assert_eq!((linears.len(), notes.len()), (0, 1));
        for (targets, part) in [
            (names(&["lm_head"]), "the output head"),
            (names(&["embed_tokens"]), "the embedding"),
            (names(&["router"]), "a router"),
            (TargetModules::Regex("(".into()), "no regular expression"),
        ] {
            let error = format!(
                "{:#}",
                saved_targets(&tiny().tensors(), &config(targets)).unwrap_err()
            );
            assert!(error.contains(part), "{error}");
        }
    }
}
