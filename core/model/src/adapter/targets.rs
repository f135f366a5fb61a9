//! Decides which parts of the model an adapter trains (PEFT's matching rules, ms-swift's `all-...` names).

use super::inventory::{Module, ModuleKind, is_suffix, modules, parameters};
use crate::families::ModelConfig;
use crate::model::{ExpertMatrix, Targets};
use anyhow::{Context, Result, bail, ensure};
use fancy_regex::Regex;

/// The targets as the user names them; [`resolve`] finds them in a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetSpec {
    /// `--target_modules`: `all-linear`, names or ends of names.
    pub modules: Vec<String>,
    /// `--target_regex`, or a single `--target_modules` that is a pattern: must match a whole module path.
    pub regex: Option<String>,
    /// `--target_parameters`: names or ends of names of 3-D expert parameters.
    pub parameters: Vec<String>,
    /// `--modules_to_save`: modules trained whole; `all-embedding`, `all-norm`, or ends of names.
    pub save: Vec<String>,
}

impl TargetSpec {
    /// Reads the values of `--target_modules`; a single value with special characters is a regular expression.
    pub fn from_names(modules: Vec<String>) -> Self {
        match modules.as_slice() {
            [one] if one.contains(['*', '(', '[', '\\', '^', '$', '|', '+', '?']) => Self {
                regex: Some(one.clone()),
                ..Self::default()
            },
            _ => Self {
                modules,
                ..Self::default()
            },
        }
    }
}

/// Finds the targets in a model of this shape.
///
/// # Errors
/// An entry matches nothing, or only modules that cannot carry an adapter; the error lists those that can.
pub fn resolve(config: &ModelConfig, wanted: &TargetSpec) -> Result<Targets> {
    let all = modules(config);
    let targets = Targets {
        linears: linears(&all, wanted)?,
        experts: experts(config, &wanted.parameters)?,
        modules_to_save: to_save(config, &all, &wanted.save)?,
    };
    ensure!(
        targets != Targets::default(),
        "nothing to train: give --target_modules (all-linear trains the attention), --target_parameters or --modules_to_save"
    );
    let matrix_of = |layer: usize| format!("model.layers.{layer}.mlp.experts");
    let carriers = targets.linears.iter().cloned();
    let carriers = carriers.chain(targets.experts.iter().map(|(layer, _)| matrix_of(*layer)));
    for path in carriers {
        ensure!(
            !targets.modules_to_save.contains(&path),
            "{path} is both a LoRA target and in modules_to_save; a module trained whole needs no adapter"
        );
    }
    Ok(targets)
}

fn linears(all: &[Module], wanted: &TargetSpec) -> Result<Vec<String>> {
    let mut chosen = vec![false; all.len()];
    let mut choose = |what: &str, matches: &dyn Fn(&Module) -> Result<bool>| -> Result<()> {
        let mut found = false;
        for (module, chosen) in all.iter().zip(&mut chosen) {
            if matches(module)? {
                ensure!(
                    module.kind == ModuleKind::Linear,
                    "{what} matches {}, {}",
                    module.path,
                    refusal(module.kind)
                );
                (found, *chosen) = (true, true);
            }
        }
        ensure!(
            found,
            "{what} matches nothing in this model; its linear layers are q_proj, k_proj, v_proj, o_proj \
             (model.layers.N.self_attn.q_proj, ...), all of them together all-linear; expert matrices are \
             reached by --target_parameters (N.mlp.experts.gate_up_proj, N.mlp.experts.down_proj)"
        );
        Ok(())
    };
    for name in &wanted.modules {
        let what = format!("target_modules entry {name:?}");
        match name.as_str() {
            "all-linear" => choose(&what, &|m| Ok(m.kind == ModuleKind::Linear))?,
            "all-embedding" | "all-norm" | "all-router" => {
                bail!(
                    "{what}: such modules carry no adapter; train them whole with --modules_to_save"
                )
            }
            _ => choose(&what, &|m| Ok(is_suffix(&m.path, name)))?,
        }
    }
    if let Some(pattern) = &wanted.regex {
        let what = format!("target_modules pattern {pattern:?}");
        let regex = Regex::new(&format!("^(?:{pattern})$"))
            .with_context(|| format!("{what} is not a regular expression"))?;
        choose(&what, &|m| Ok(regex.is_match(&m.path)?))?;
    }
    let paths = all.iter().zip(chosen).filter(|(_, chosen)| *chosen);
    Ok(paths.map(|(module, _)| module.path.clone()).collect())
}

pub(super) fn refusal(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::Linear => "a linear layer",
        ModuleKind::Head => {
            "the output head, which carries no adapter here; train it whole with --modules_to_save lm_head"
        }
        ModuleKind::Router => {
            "a router, which PEFT does not wrap either; train it whole with --modules_to_save"
        }
        ModuleKind::Experts => {
            "the experts, whose matrices are parameters; use --target_parameters N.mlp.experts.gate_up_proj"
        }
        ModuleKind::Norm => "a norm; train it whole with --modules_to_save",
        ModuleKind::Embedding => "the embedding; train it whole with --modules_to_save",
        ModuleKind::Container => {
            "which is a group of modules and no linear layer; name the layers in it"
        }
    }
}

/// The layer and matrix of each entry, in the order of the layers.
pub(super) fn experts(
    config: &ModelConfig,
    entries: &[String],
) -> Result<Vec<(usize, ExpertMatrix)>> {
    let all = parameters(config);
    let mut list = Vec::new();
    for entry in entries {
        let matching: Vec<_> = all
            .iter()
            .filter(|(name, _)| is_suffix(name, entry))
            .collect();
        ensure!(
            !matching.is_empty(),
            "target_parameters entry {entry:?} matches nothing in this model of {} layers; its 3-D parameters are \
             N.mlp.experts.gate_up_proj and N.mlp.experts.down_proj",
            config.architecture.layers.len()
        );
        for (name, shape) in matching {
            let Some(found) = expert_matrix(name) else {
                bail!(
                    "target_parameters entry {entry:?} matches {name}, which has {} dimension(s); only the 3-D \
                     expert parameters mlp.experts.gate_up_proj and mlp.experts.down_proj can be targets",
                    shape.len()
                );
            };
            list.push(found);
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

/// The layer and matrix of `model.layers.N.mlp.experts.gate_up_proj` or `down_proj`.
pub(super) fn expert_matrix(name: &str) -> Option<(usize, ExpertMatrix)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let matrix = match rest {
        "mlp.experts.gate_up_proj" => ExpertMatrix::GateUp,
        "mlp.experts.down_proj" => ExpertMatrix::Down,
        _ => return None,
    };
    Some((layer.parse().ok()?, matrix))
}

/// The paths of modules with parameters that end with one of `entries`. Like PEFT, it compares plain text, so that an
/// entry may begin inside a part of the path.
pub(super) fn to_save(
    config: &ModelConfig,
    all: &[Module],
    entries: &[String],
) -> Result<Vec<String>> {
    let holders: Vec<String> = parameters(config)
        .into_iter()
        .filter_map(|(name, _)| name.rsplit_once('.').map(|(module, _)| module.to_owned()))
        .collect();
    let mut list: Vec<String> = Vec::new();
    for entry in entries {
        let matching = |m: &&Module| match entry.as_str() {
            "all-embedding" => m.kind == ModuleKind::Embedding,
            "all-norm" => m.kind == ModuleKind::Norm,
            "all-router" => m.kind == ModuleKind::Router,
            _ => !entry.is_empty() && m.path.ends_with(entry.as_str()),
        };
        let before = list.len();
        for module in all.iter().filter(matching) {
            let inside = |path: &&String| {
                path.strip_prefix(&module.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            list.extend(holders.iter().filter(inside).cloned());
        }
        ensure!(
            list.len() > before,
            "modules_to_save entry {entry:?} matches nothing in this model; there are embed_tokens, lm_head, norm, \
             input_layernorm, post_attention_layernorm, q_proj, k_proj, v_proj, o_proj, router, experts, \
             all-embedding, all-norm, all-router"
        );
    }
    list.sort();
    list.dedup();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::tiny;

    fn wanted(modules: &[&str], parameters: &[&str], save: &[&str]) -> TargetSpec {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        TargetSpec {
            parameters: own(parameters),
            save: own(save),
            ..TargetSpec::from_names(own(modules))
        }
    }

    fn error(wanted: &TargetSpec) -> String {
        format!("{:#}", resolve(&tiny(), wanted).unwrap_err())
    }

    #[test]
    fn names_suffixes_and_patterns() -> Result<()> {
        let config = tiny();
        let all = resolve(&config, &wanted(&["all-linear"], &[], &[]))?;
        assert_eq!(all.linears.len(), 16);
        let q = resolve(
            &config,
            &wanted(&["q_proj", "1.self_attn.o_proj"], &[], &[]),
        )?;
        assert_eq!(q.linears.len(), 5);
        let pattern = r"model\.layers\.(?!0)\d+\.self_attn\.[qv]_proj";
        let some = resolve(&config, &wanted(&[pattern], &[], &[]))?;
        assert_eq!(some.linears.len(), 6);
        assert!(!some.linears[0].contains("layers.0"));
        Ok(())
    }

    #[test]
    fn parameters_match_by_the_end_of_their_names() -> Result<()> {
        let config = tiny();
        let one = wanted(
            &[],
            &["3.mlp.experts.down_proj", "1.mlp.experts.gate_up_proj"],
            &[],
        );
        let expected = [(1, ExpertMatrix::GateUp), (3, ExpertMatrix::Down)];
        assert_eq!(resolve(&config, &one)?.experts, expected);
        let all = wanted(&[], &["mlp.experts.down_proj"], &[]);
        assert_eq!(resolve(&config, &all)?.experts.len(), 4);
        Ok(())
    }

    #[test]
    fn whole_modules() -> Result<()> {
        let config = tiny();
        let norms = resolve(&config, &wanted(&[], &[], &["all-norm"]))?;
        assert_eq!(norms.modules_to_save.len(), 9);
        let head = resolve(
            &config,
            &wanted(&["all-linear"], &[], &["lm_head", "embed_tokens"]),
        )?;
        assert_eq!(head.modules_to_save, ["lm_head", "model.embed_tokens"]);
        let attention = resolve(&config, &wanted(&[], &[], &["layers.2.self_attn"]))?;
        assert_eq!(attention.modules_to_save.len(), 5);
        Ok(())
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        for (wanted, part) in [
            (wanted(&["gate_proj"], &[], &[]), "matches nothing"),
            (wanted(&["router"], &[], &[]), "a router"),
            (wanted(&["experts"], &[], &[]), "target_parameters"),
            (wanted(&["lm_head"], &[], &[]), "modules_to_save lm_head"),
            (wanted(&["(q_proj"], &[], &[]), "regular expression"),
            (wanted(&[], &["9.mlp.experts.down_proj"], &[]), "4 layers"),
            (wanted(&[], &["router.weight"], &[]), "2 dimension(s)"),
            (wanted(&[], &[], &["mlp.gate"]), "matches nothing"),
            (wanted(&["q_proj"], &[], &["0.self_attn.q_proj"]), "both"),
            (
                wanted(&[], &["0.mlp.experts.down_proj"], &["experts"]),
                "both",
            ),
            (TargetSpec::default(), "nothing to train"),
        ] {
            let text = error(&wanted);
            assert!(text.contains(part), "{wanted:?}: {text}");
        }
    }
}
