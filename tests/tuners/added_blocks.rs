//! LLaMA Pro's blocks.

use super::{MODEL, answer, run, tensors};
use crate::common::training::{TINY, weights};
use crate::common::{fails, works};
use serde_json::Value;
use std::fs;

/// LLaMA Pro: a deeper model computes what the model does, until its new blocks are trained, which they are alone.
#[test]
fn added_blocks_are_a_model_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for form in ["model_bf16", "model_mxfp4"] {
        let (base, deeper) = (format!("{TINY}/{form}"), at(&format!("{form}-deeper")));
        let said = works(&format!(
            "export --model {base} --to llamapro --to.num_new_blocks 2 --output_dir {}",
            deeper.display()
        ));
        let flags = "--target_modules none --modules_to_save layers.2 layers.5";
        assert!(said.contains(flags), "{said}");
        let deep = format!("--model {}", deeper.display());
        let answer = |name: &str, flags: &str| answer(&at(form), name, flags);
        fs::create_dir(at(form)).unwrap();
        let before = answer("before", &format!("--model {base}"));
        assert_eq!(answer("deeper", &deep), before, "{form}");
        let flags = format!("{deep} --learning_rate 1e-3 {flags}");
        let whole = run(&at(&format!("{form}-whole")), &flags);
        let names: Vec<String> = tensors(&whole).into_iter().map(|(name, _)| name).collect();
        let is_new = |name: &String| name.contains("layers.2.") || name.contains("layers.5.");
        assert!(names.iter().all(is_new), "{names:?}");
        assert!(
            names
                .iter()
                .any(|name| name.ends_with("mlp.experts.down_proj")),
            "{names:?}"
        );
        let half = at(&format!("{form}-whole")).join("checkpoint-2");
        let rest = run(
            &at(&format!("{form}-rest")),
            &format!("{flags} --resume_from_checkpoint {}", half.display()),
        );
        assert_eq!(weights(&rest), weights(&whole), "{form}");
        let adapter = format!("--adapters {}", whole.display());
        assert_ne!(answer("with", &adapter), before, "{form}");
        let merged = at(&format!("{form}-merged"));
        works(&format!(
            "export {adapter} --merge_lora true --output_dir {}",
            merged.display()
        ));
        let alone = answer("alone", &format!("--model {}", merged.display()));
        assert_ne!(alone, before, "{form}");
        let text = fs::read_to_string(merged.join("config.json")).unwrap();
        let layers = serde_json::from_str::<Value>(&text).unwrap()["num_hidden_layers"].clone();
        assert_eq!(layers, 6, "{form}");
    }
    let said = fails(
        &format!(
            "export --model {MODEL} --to llamapro --to.num_new_blocks 3 --output_dir {}",
            at("three").display()
        ),
        1,
        &["3 blocks", "4 layers", "divides"],
    );
    assert!(!at("three").exists(), "{said}");
}
