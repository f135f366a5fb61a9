use super::super::SftConfig;
use super::super::resolve::{from_arguments, split_options};
use super::*;
use crate::registry::Spec;
use apus_sdk::Kind as ComponentKind;

/// What a file and a command line give together.
fn resolve(file: &str, line: &str) -> Result<Resolved<SftConfig>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, format!("model = 'm'\ndataset = 'd'\n{file}")).unwrap();
    let line = format!("--config {} {line}", path.display());
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let found = from_arguments::<SftConfig>(&words)?;
    found.config.check(&|flag| found.given(flag))?;
    Ok(found)
}

fn config(file: &str, line: &str) -> SftConfig {
    resolve(file, line).unwrap().config
}

/// The optimizer, and what is said about shorthands that it does not have.
fn optimizer(file: &str, line: &str) -> Result<(Spec, Vec<String>)> {
    apus_plugins::link();
    let found = resolve(file, line)?;
    found
        .config
        .optimizer_spec(&|flag| found.origin(flag), &|name| match name {
            "mine" => Ok(vec!["decay".to_owned()]),
            name => crate::registry::options(ComponentKind::Optimizer, name),
        })
}

fn options(spec: &Spec) -> String {
    Value::Object(spec.options.clone()).to_string()
}

#[test]
fn flags_go_over_the_file() {
    let file =
        "lora_rank = 4\ntarget_modules = 'q_proj'\noptimizer = { name = 'lion', beta1 = 0.8 }\n";
    let found = config(file, "--lora_rank 16 --optimizer.beta2 0.9");
    assert_eq!((found.lora_rank, found.model.as_str()), (16, "m"));
    assert_eq!(found.target_modules, ["q_proj"]);
    assert_eq!(
        options(&found.optimizer.unwrap()),
        r#"{"beta1":0.8,"beta2":0.9}"#
    );
    let other = config(file, "--optimizer sgd").optimizer.unwrap();
    assert_eq!((other.name.as_str(), other.options.len()), ("sgd", 0));
    let same = config(file, "--optimizer lion --optimizer.beta1 0.7");
    assert_eq!(options(&same.optimizer.unwrap()), r#"{"beta1":0.7}"#);
}

#[test]
fn a_date_is_a_text() {
    let found = config("current_date = 2026-01-31\nrun_name = 7\n", "");
    assert_eq!(found.current_date.as_deref(), Some("2026-01-31"));
    assert_eq!(found.run_name.as_deref(), Some("7"));
}

#[test]
fn components_of_a_list_keep_what_the_file_says_of_them() {
    let file =
        "callbacks = ['a', { name = 'b', k = 1 }]\nloss_scale = ['all+x', { name = 'y', w = 2 }]\n";
    let found = config(file, "");
    let names = |specs: &[Spec]| specs.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found.callbacks), ["a", "b"]);
    assert_eq!(names(&found.loss_scale), ["all", "x", "y"]);
    let found = config(
        file,
        "--callbacks.a.n 3 --callbacks.b.k 2 --loss_scale.x.code 2.5",
    );
    assert_eq!(options(&found.callbacks[0]), r#"{"n":3}"#);
    assert_eq!(options(&found.callbacks[1]), r#"{"k":2}"#);
    assert_eq!(options(&found.loss_scale[1]), r#"{"code":2.5}"#);
    let found = config(file, "--callbacks c b --loss_scale y");
    assert_eq!(names(&found.callbacks), ["c", "b"]);
    assert_eq!(options(&found.callbacks[1]), r#"{"k":1}"#);
    assert_eq!(options(&found.loss_scale[0]), r#"{"w":2}"#);
}

#[test]
fn options_are_numbers_texts_and_lists() {
    let found = config(
        "",
        "--loss_type x --loss_type.exact 200002 200007 --loss_type.names a b --loss_type.mixed 1 b \
         --loss_type.one 5 --loss_type.low -0.5 --loss_type.on --loss_type.list [1,2]",
    );
    assert_eq!(
        options(&found.loss_type),
        r#"{"exact":[200002,200007],"names":["a","b"],"mixed":[1,"b"],"one":5,"low":-0.5,"on":true,"list":[1,2]}"#
    );
    let found = config(
        "",
        "--callbacks a b --callbacks.b.patience 3 --loss_scale all+my/table.json+x",
    );
    assert_eq!(found.callbacks[1].options["patience"], 3);
    assert_eq!(found.loss_scale[1].options["path"], "my/table.json");
    let words = ["--a.b", "1", "--a.c=2", "--d"].map(str::to_owned);
    assert_eq!(split_options(&words).0, ["--d"]);
}

#[test]
fn plugins_of_the_command_line_come_to_those_of_the_file() {
    let file = "plugins = ['a.so', { path = 'b.so', prefix = 'b_' }]\n";
    let found = config(file, "--plugin c.so b.so --plugin d.so");
    let paths: Vec<_> = found
        .plugins
        .iter()
        .map(|p| p.path.to_str().unwrap())
        .collect();
    assert_eq!(paths, ["a.so", "b.so", "c.so", "d.so"]);
    assert_eq!(found.plugins[1].prefix.as_deref(), Some("b_"));
}

#[test]
fn what_the_command_line_replaces_is_named() {
    for (file, line, said, left) in [
        (
            "optim = 'sgd'",
            "--optimizer lion",
            "key optim: not used, because --optimizer",
            "optim",
        ),
        (
            "optimizer = 'lion'",
            "--optim sgd",
            "key optimizer: not used, because --optim",
            "optimizer",
        ),
        (
            "lr_scheduler_type = 'linear'",
            "--lr_scheduler x",
            "key lr_scheduler_type",
            "lr_scheduler_type",
        ),
        (
            "lr_scheduler = 'x'",
            "--lr_scheduler_type linear",
            "key lr_scheduler:",
            "lr_scheduler",
        ),
        (
            "lr_scheduler_kwargs = { a = 1 }",
            "--lr_scheduler_type linear",
            "key lr_scheduler_kwargs",
            "lr_scheduler_kwargs",
        ),
        (
            "warmup_ratio = 0.1",
            "--warmup_steps 5",
            "key warmup_ratio",
            "warmup_ratio",
        ),
        (
            "warmup_steps = 5",
            "--warmup_ratio 0.1",
            "key warmup_steps",
            "warmup_steps",
        ),
        (
            "target_regex = 'x'",
            "--target_modules q_proj",
            "key target_regex",
            "target_regex",
        ),
        (
            "max_steps = 5",
            "--num_train_epochs 2",
            "key max_steps",
            "max_steps",
        ),
    ] {
        let found = resolve(file, line).unwrap();
        assert!(
            found.notes.iter().any(|note| note.contains(said)),
            "{file} {line}: {:?}",
            found.notes
        );
        assert!(!found.given(left), "{file} {line}");
    }
    let both = "--optim sgd --optimizer lion";
    assert!(
        resolve("", both)
            .unwrap_err()
            .to_string()
            .contains("both given")
    );
    assert!(resolve("warmup_ratio = 0.1\nwarmup_steps = 5", "").is_err());
    let kept = config(
        "lr_scheduler_type = 'linear'\nlr_scheduler_kwargs = { a = 1 }",
        "--lr_scheduler_type linear",
    );
    assert_eq!(kept.lr_scheduler_kwargs["a"], 1);
    let twice = resolve("", "--lora_rank 4 --lora_rank 16").unwrap();
    assert_eq!(twice.config.lora_rank, 16);
    assert_eq!(
        twice.notes,
        ["--lora_rank is given 2 times; the last one counts"]
    );
}

#[test]
fn a_shorthand_that_the_optimizer_lacks() {
    let decay = "weight_decay = 0.01\nadam_beta2 = 0.99\n";
    let (spec, lines) = optimizer(decay, "--optimizer mine").unwrap();
    assert_eq!(
        (spec.name.as_str(), options(&spec).as_str()),
        ("mine", "{}")
    );
    assert_eq!(
        lines,
        [
            "weight_decay: not used: optimizer mine has no option weight_decay",
            "adam_beta2: not used: optimizer mine has no option beta2"
        ]
    );
    let said = |file, line| optimizer(file, line).unwrap_err().to_string();
    assert_eq!(
        said(decay, "--optimizer mine --weight_decay 0"),
        "--weight_decay: optimizer mine has no option weight_decay; it has decay"
    );
    assert!(said("", "--optim sgd --adam_beta1 0.8").contains("optimizer sgd has no option beta1"));
    let (spec, lines) = optimizer("adam_beta1 = 0.8", "--optim sgd").unwrap();
    assert_eq!(
        (options(&spec).as_str(), lines.len()),
        (r#"{"weight_decay":0.1}"#, 1)
    );
}

#[test]
fn a_shorthand_and_its_option() {
    let of = |file, line| options(&optimizer(file, line).unwrap().0);
    let file = "optimizer = { name = 'adamw', beta2 = 0.9 }";
    assert_eq!(of(file, "--adam_beta2 0.99"), r#"{"beta2":0.99}"#);
    assert_eq!(
        of(
            "adam_beta2 = 0.99",
            "--optimizer adamw --optimizer.beta2 0.9"
        ),
        r#"{"beta2":0.9}"#
    );
    assert!(resolve(&format!("{file}\nadam_beta2 = 0.99"), "").is_err());
    assert_eq!(
        of("", "--optim lion_32bit"),
        r#"{"weight_decay":0.1,"beta1":0.9,"beta2":0.95}"#
    );
    assert_eq!(of("", "--optim paged_adamw_32bit"), of("", ""));
    let said = optimizer("", "--optim lion_8bit").unwrap_err().to_string();
    assert!(
        said.contains("float32") && said.contains("--optim adamw_torch"),
        "{said}"
    );
    assert!(
        optimizer("", "--optimizer nope")
            .unwrap_err()
            .to_string()
            .contains("no optimizer \"nope\"")
    );
}
