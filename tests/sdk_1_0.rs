//! The SDK as it was released: plugins that were built with 1.0 work here, their sources compile with the SDK of now, and
//! a host of 1.0 refuses a component that needs more.

mod common;

use common::crates::{built, cargo, copy, of_commit, target, workspace_manifest};
use common::{apus, text};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The commit of SDK 1.0.
const RELEASE: &str = "7992a0f";
/// The kinds of 1.0, which each had a template with a component and a test.
const KINDS: [&str; 8] = [
    "dataset_format",
    "loss_scale",
    "loss",
    "optimizer",
    "schedule",
    "callback",
    "metric",
    "tracker",
];

/// Plugins that were written anew since: `tests/goldens/sdk_1_0` has them in the form of 1.0.
const WRITTEN_ANEW: [&str; 5] = ["ticket", "code_decay", "smooth_z", "adafactor", "quiz"];

/// What a host of 1.0 did with a library: it opened it and asked whether it knew the kinds of its components.
const HOST: &str = r#"
use apus_sdk::{Kind, Loss, Options, abi, testing::Chunk};

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let library = abi::open(path.as_ref()).unwrap();
    for component in &library.description().components {
        let known = Kind::from_name(&component.kind).is_some();
        println!("{} {}: {known}", component.kind, component.name);
    }
    if let Some(name) = std::env::args().nth(2) {
        let made = library.make::<dyn Loss>(&name, &Options::new(), abi::Origin::new("it"));
        println!("{:?}", Chunk::random(4, 7, 1).per_token(made.unwrap().as_ref()));
    }
}
"#;

/// A workspace of an SDK, a plugin crate with a component of each kind of 1.0, and a host.
fn workspace(release: &Path, sdk: &Path, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    copy(sdk, &dir.join("sdk"));
    let root = fs::read_to_string(sdk.with_file_name("Cargo.toml")).unwrap();
    let manifest = workspace_manifest(&root, &["sdk", name, "host-1-0"]);
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::copy(Path::new(ROOT).join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let member = |name: &str, more: &str, file: &str, source: &str| {
        let dir = dir.join(name);
        fs::create_dir_all(dir.join("src")).unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}\
             [dependencies]\napus-sdk.workspace = true\n"
        );
        fs::write(dir.join("Cargo.toml"), manifest).unwrap();
        fs::write(dir.join("src").join(file), source).unwrap();
    };
    let mut lib = "apus_sdk::export_plugin!();\n".to_owned();
    for module in KINDS.iter().chain(&WRITTEN_ANEW) {
        lib += &format!("mod {module};\n");
    }
    member(name, "[lib]\ncrate-type = [\"cdylib\"]\n", "lib.rs", &lib);
    member("host-1-0", "", "main.rs", HOST);
    for kind in KINDS {
        let template = release.join(format!("src/plugin/templates/{kind}/lib.rs"));
        let source = fs::read_to_string(template).unwrap();
        let source = source.replace("apus_sdk::export_plugin!();", "");
        let source = source.replace("{{component}}", &format!("old_{kind}"));
        fs::write(dir.join(name).join(format!("src/{kind}.rs")), source).unwrap();
    }
    for module in WRITTEN_ANEW {
        let source = format!("{ROOT}/tests/goldens/sdk_1_0/{module}.rs");
        fs::copy(source, dir.join(name).join(format!("src/{module}.rs"))).unwrap();
    }
    dir
}

/// One test, so that nothing is built twice or at the same time.
#[test]
fn what_was_made_for_1_0_works() {
    if !cfg!(target_os = "linux") {
        println!("skipped: written for Linux");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let paths = ["sdk", "src/plugin/templates", "Cargo.toml"];
    let Some(()) = of_commit(RELEASE, &paths, home.path()) else {
        println!("skipped: the commit {RELEASE} is not there, as in a shallow clone");
        return;
    };
    let library = |name: &str| target().join(format!("debug/{DLL_PREFIX}{name}{DLL_SUFFIX}"));

    // Built with the SDK of then: it loads here, and every component passes the check.
    let old = workspace(home.path(), &home.path().join("sdk"), "built-with-1-0");
    built(&cargo(
        &old,
        &["build", "-p", "built-with-1-0", "-p", "host-1-0"],
    ));
    let file = library("built_with_1_0").display().to_string();
    let said = apus(&["plugin", "check", &file], &[]);
    built(&said);
    let said = text(&said);
    assert!(
        said.contains("apus-sdk 1.0.0") && !said.contains("FAIL"),
        "{said}"
    );
    let components = KINDS.len() + WRITTEN_ANEW.len() + 1;
    assert!(said.matches("old_").count() >= components, "{said}");

    // A run with all of them.
    let data = home.path().join("rows.jsonl");
    fs::write(
        &data,
        r#"{"ask": "What is 1 + 2?", "reply": "It is 3."}"#.to_owned() + "\n",
    )
    .unwrap();
    let (out, data) = (home.path().join("out"), data.display().to_string());
    let line = format!(
        "sft --model {ROOT}/tests/goldens/tiny/model_bf16 --dataset {data} --val_dataset {data} --device cpu --max_steps 2 \
         --eval_strategy steps --eval_steps 1 --plugin {file} --output_dir {} --add_version false \
         --dataset_format old_dataset_format --loss_scale default+old_loss_scale --loss_type old_loss \
         --optimizer old_optimizer --lr_scheduler old_schedule --callbacks old_callback --metrics old_metric \
         --trackers old_tracker",
        out.display()
    );
    let run = apus(&line.split_whitespace().collect::<Vec<_>>(), &[]);
    built(&run);
    assert!(out.join("numbers.csv").is_file(), "{}", text(&run));

    // A host of then refuses what needs more than 1.0, by its own check, and takes the rest.
    let host = target().join("debug/host-1-0");
    let ask = |library: PathBuf, loss: &[&str]| {
        let output = Command::new(&host)
            .arg(library)
            .args(loss)
            .output()
            .unwrap();
        built(&output);
        text(&output)
    };
    let said = ask(common::library("asking_plugin"), &[]);
    assert!(
        said.contains("callback with set parameters, hooks sees: false"),
        "{said}"
    );
    assert!(said.contains("callback asks: true"), "{said}");
    let said = ask(common::library("channel_loss"), &[]);
    assert_eq!(said.trim(), "loss with chunk rows channel_loss: false");
    let said = ask(common::library("focal_loss"), &["focal"]);
    assert!(
        said.contains("loss focal: true") && said.contains("Ok(["),
        "{said}"
    );

    // Its sources, tests included, with the SDK of now.
    let now = workspace(home.path(), &Path::new(ROOT).join("sdk"), "sources-of-1-0");
    let tested = cargo(&now, &["test", "-p", "sources-of-1-0"]);
    built(&tested);
    let said = text(&tested);
    assert!(!said.contains("warning: use of deprecated"), "{said}");
}
