//! Decides which parts of the model an adapter trains (PEFT's matching rules, ms-swift's `all-...` names).

use super::hints;
use crate::families::ModelConfig;
use crate::model::Targets;
use crate::tensors::{ExpertMatrix, Module, ModuleKind, Role, TensorList};
use anyhow::{Context, Result, bail, ensure};
use fancy_regex::Regex;

/// The targets as the user names them; [`resolve`] finds them in a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetSpec {
    /// `--target_modules`: `all-linear`, names or ends of names; none of them is written `none`.
    pub modules: Vec<String>,
    /// `--target_regex`, or a single `--target_modules` that is a pattern: must match a whole module path.
    pub regex: Option<String>,
    /// Whether blocks can be targets too, which carry tuners and no low-rank updates.
    pub blocks: bool,
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
            [one] if one == "none" => Self::default(),
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
    let list = config.tensors();
    let (linears, blocks) = modules(&list, wanted)?;
    let targets = Targets {
        linears,
        blocks,
        experts: experts(&list, &wanted.parameters)?,
        modules_to_save: to_save(&list, &wanted.save)?,
        ..Targets::default()
    };
    ensure!(
        targets != Targets::default(),
        "nothing to train: give --target_modules (all-linear trains {}), --target_parameters or --modules_to_save",
        hints::all_linear(&list)
    );
    let matrices = targets.experts.iter();
    let matrices = matrices
        .filter_map(|&(layer, matrix)| list.weight(Some(layer), Role::Experts(matrix)))
        .map(|spec| spec.module());
    for path in targets.linears.iter().map(String::as_str).chain(matrices) {
        ensure!(
            !targets.modules_to_save.iter().any(|saved| saved == path),
            "{path} is both a LoRA target and in modules_to_save; a module trained whole needs no adapter"
        );
    }
    Ok(targets)
}

/// The paths of linear modules and of blocks.
fn modules(list: &TensorList, wanted: &TargetSpec) -> Result<(Vec<String>, Vec<String>)> {
    let all = list.modules();
    let is_block = |module: &Module| wanted.blocks && list.block(&module.path).is_some();
    let mut chosen = vec![false; all.len()];
    let mut choose = |what: &str, matches: &dyn Fn(&Module) -> Result<bool>| -> Result<()> {
        let mut found = false;
        for (module, chosen) in all.iter().zip(&mut chosen) {
            if matches(module)? {
                ensure!(
                    module.kind == ModuleKind::Linear || is_block(module),
                    "{what} matches {}, {}",
                    module.path,
                    refusal(list, module.kind)
                );
                (found, *chosen) = (true, true);
            }
        }
        ensure!(
            found,
            "{what} matches nothing in this model; {}{}",
            hints::carriers(list),
            if wanted.blocks {
                hints::blocks(list)
            } else {
                String::new()
            }
        );
        Ok(())
    };
    for name in &wanted.modules {
        let what = format!("target_modules entry {name:?}");
        match name.as_str() {
            "all-linear" => choose(&what, &|m| Ok(m.kind == ModuleKind::Linear))?,
            "all-layers" if wanted.blocks => {
                choose(&what, &|m| Ok(list.layer_paths().contains(&m.path)))?;
            }
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
    let (linears, blocks): (Vec<&Module>, Vec<&Module>) = paths
        .map(|(module, _)| module)
        .partition(|module| module.kind == ModuleKind::Linear);
    let paths = |modules: Vec<&Module>| modules.iter().map(|m| m.path.clone()).collect();
    Ok((paths(linears), paths(blocks)))
}

/// Why a module of this kind carries no adapter.
pub(super) fn refusal(list: &TensorList, kind: ModuleKind) -> String {
    match kind {
        ModuleKind::Linear => "a linear layer".to_owned(),
        ModuleKind::Head => format!(
            "the output head, which carries no adapter here; train it whole with --modules_to_save {}",
            list.head()
        ),
        ModuleKind::Router => {
            "a router, which PEFT does not wrap either; train it whole with --modules_to_save"
                .to_owned()
        }
        ModuleKind::Experts => format!(
            "the experts, whose matrices are parameters; use --target_parameters {}",
            hints::first_expert_parameter(list)
        ),
        ModuleKind::Norm => "a norm; train it whole with --modules_to_save".to_owned(),
        ModuleKind::Embedding => "the embedding; train it whole with --modules_to_save".to_owned(),
        ModuleKind::Container => {
            "which is a group of modules and no linear layer; name the layers in it".to_owned()
        }
    }
}

/// The layer and matrix of each entry, in the order of the layers.
pub(super) fn experts(list: &TensorList, entries: &[String]) -> Result<Vec<(usize, ExpertMatrix)>> {
    let mut found = Vec::new();
    for entry in entries {
        let matching = list.iter().filter(|spec| is_suffix(&spec.name, entry));
        let matching: Vec<_> = matching.collect();
        ensure!(
            !matching.is_empty(),
            "target_parameters entry {entry:?} matches nothing in this model of {} layers; {}",
            list.layers(),
            hints::expert_parameters(list)
        );
        for spec in matching {
            let (Some(layer), Some(matrix)) = (spec.layer, spec.expert_matrix()) else {
                bail!(
                    "target_parameters entry {entry:?} matches {}, which has {} dimension(s); {}",
                    spec.name,
                    spec.shape.len(),
                    hints::only_expert_parameters(list)
                );
            };
            found.push((layer, matrix));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The paths of modules with parameters that end with one of `entries`. Like PEFT, it compares plain text, so that an
/// entry may begin inside a part of the path.
pub(super) fn to_save(list: &TensorList, entries: &[String]) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for entry in entries {
        let matching = |m: &&Module| match entry.as_str() {
            "all-embedding" => m.kind == ModuleKind::Embedding,
            "all-norm" => m.kind == ModuleKind::Norm,
            "all-router" => m.kind == ModuleKind::Router,
            _ => !entry.is_empty() && m.path.ends_with(entry.as_str()),
        };
        let before = found.len();
        for module in list.modules().iter().filter(matching) {
            let holders = list.iter().map(|spec| spec.module());
            let inside = holders.filter(|path| {
                path.strip_prefix(&module.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            found.extend(inside.map(str::to_owned));
        }
        ensure!(
            found.len() > before,
            "modules_to_save entry {entry:?} matches nothing in this model; there are {}",
            hints::modules_to_save(list)
        );
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether `path` is `name` or ends with `.name`, PEFT's rule for names in lists.
pub(super) fn is_suffix(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::tiny;
    use crate::families::testing::dense;

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

    /// A tuner can be added to them, a low-rank update cannot.
    #[test]
    fn blocks_are_targets_of_tuners_alone() -> Result<()> {
        let config = tiny();
        let of = |modules: &[&str]| {
            let wanted = TargetSpec {
                blocks: true,
                ..wanted(modules, &[], &[])
            };
            resolve(&config, &wanted)
        };
        assert_eq!(of(&["all-layers"])?.blocks.len(), 4);
        let some = of(&["layers.1.mlp", "experts", "q_proj"])?;
        assert_eq!(some.linears.len(), 4);
        assert_eq!(some.blocks.len(), 5);
        assert_eq!(some.blocks[1], "model.layers.1.mlp");
        let refused = format!("{:#}", of(&["self_attn"]).unwrap_err());
        assert!(refused.contains("a group of modules"), "{refused}");
        let missing = format!("{:#}", of(&["moe"]).unwrap_err());
        assert!(
            missing.contains("its blocks are mlp, experts and"),
            "{missing}"
        );
        let without = error(&wanted(&["all-layers"], &[], &[]));
        assert!(without.contains("matches nothing"), "{without}");
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
        let attention = resolve(&config, &wanted(&["none"], &[], &["layers.2.self_attn"]))?;
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

    /// What PEFT and the messages say of a model without experts.
    #[test]
    fn a_dense_family_brings_its_own_names() -> Result<()> {
        let config = dense(true);
        let all = resolve(&config, &wanted(&["all-linear"], &[], &[]))?;
        assert_eq!(all.linears.len(), 2 * 7);
        assert_eq!(all.linears[4], "model.layers.0.mlp.gate_proj");
        let norms = resolve(&config, &wanted(&[], &[], &["all-norm"]))?;
        assert_eq!(norms.modules_to_save.len(), 2 * 4 + 1);
        for (wanted, text) in [
            (
                wanted(&["c_attn"], &[], &[]),
                "its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj \
                 (model.layers.N.self_attn.q_proj, ...), all of them together all-linear",
            ),
            (wanted(&["act_fn"], &[], &[]), "a group of modules"),
            (
                wanted(&[], &["0.mlp.experts.down_proj"], &[]),
                "matches nothing in this model of 2 layers; it has no 3-D parameters",
            ),
            (
                wanted(&[], &["q_proj.weight"], &[]),
                "which has 2 dimension(s); only 3-D parameters can be targets, and this model has none",
            ),
            (
                wanted(&[], &[], &["router"]),
                "there are embed_tokens, lm_head, norm, q_norm, k_norm, input_layernorm, \
                 post_attention_layernorm, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, \
                 all-embedding, all-norm",
            ),
            (
                TargetSpec::default(),
                "all-linear trains attention and MLPs",
            ),
        ] {
            let error = resolve(&config, &wanted).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(error.ends_with(text) || !text.ends_with("norm"), "{error}");
        }
        Ok(())
    }
}
