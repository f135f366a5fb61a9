//! What concerns the tuner of a library.

use super::{MODEL, bottleneck, config, plugin, run};
use crate::common;
use crate::common::training::{refuses, weights};

#[test]
fn what_a_tuner_has_trained_is_trained_on_by_it_alone() {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| home.path().join(name);
    let first = run(&dir("first"), &bottleneck());
    let on = format!("--adapters {} {}", first.display(), plugin());
    let second = run(&dir("second"), &on);
    assert_eq!(config(&second)["apus_tuner"], config(&first)["apus_tuner"]);
    assert_ne!(weights(&second), weights(&first));
    let flags = format!("--model {MODEL} --max_steps 1");
    refuses(
        &dir("other"),
        &format!("{flags} {on} --train_type ia3"),
        &["tuner bottleneck", "train_type is another one"],
    );
    refuses(
        &dir("without"),
        &format!("{flags} --adapters {}", first.display()),
        &["there is no tuner \"bottleneck\"", "--plugin"],
    );
}

#[test]
fn a_library_is_checked() {
    let library = plugin().replace("--plugin ", "");
    // Other components of the library do wrong on purpose.
    let said = common::fails(&format!("plugin check {library} --device cpu"), 1, &[]);
    let of = |tuner: &str| -> String {
        let mut lines = said.lines().skip_while(|line| !line.starts_with(tuner));
        let first = lines.next().unwrap_or_default();
        let rest = lines.take_while(|line| line.starts_with(' '));
        [first]
            .into_iter()
            .chain(rest)
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (tuner, merged) in [
        ("tuner bottleneck", "which export refuses by name"),
        ("tuner pair", "ok    merged: computes the same"),
        ("tuner aside", "which export refuses by name"),
    ] {
        let said = of(tuner);
        assert!(said.starts_with(tuner) && !said.contains("FAIL"), "{said}");
        assert!(
            said.contains("ok    gradient against finite differences"),
            "{said}"
        );
        assert!(said.contains(merged), "{said}");
    }
    let aside = of("tuner aside");
    assert!(
        aside.contains("factor [6] of model.layers.0.mlp"),
        "{aside}"
    );
    let pair = of("tuner pair");
    assert!(
        pair.contains("a low-rank update of lora_A.weight [4, 6]"),
        "{pair}"
    );
}
