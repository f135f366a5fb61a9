//! What needs a compiler to show: a plugin of another minor version of the SDK, in both directions, and a kind of
//! component that only the newer version has; one that was stripped; one that depends on a library that is gone; one that aborts on a panic; and the
//! crates that `apus plugin new` writes.
//!
//! Crates are built in a workspace of their own under the target folder, from what cargo has already
//! fetched for this one.

mod common;

use apus_sdk::Kind;
use common::crates::{PROFILES, built, cargo, copy, target, workspace_manifest};
use common::{apus, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{}: no {from:?}", file.display());
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// The block of code for this file in the how-to of a new kind.
fn how_to(file: &str) -> String {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/dev/how-to/component-kind.md"));
    let page = page.unwrap();
    let (_, after) = page.split_once(&format!("`{file}`")).expect(file);
    let (_, code) = after.split_once("```rust\n").expect(file);
    let (code, _) = code.split_once("   ```").expect(file);
    let lines = code
        .lines()
        .map(|line| line.strip_prefix("   ").unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Adds the kind of the how-to to an SDK, and a plugin with a component of it.
fn add_kind(dir: &Path) {
    let sdk = dir.join("sdk/src");
    for file in ["reward.rs", "abi/reward.rs"] {
        fs::write(sdk.join(file), how_to(&format!("sdk/src/{file}"))).unwrap();
    }
    let lib = sdk.join("lib.rs");
    edit(&lib, "mod schedule;", "mod reward;\nmod schedule;");
    edit(
        &lib,
        "pub use schedule::",
        "pub use reward::Reward;\npub use schedule::",
    );
    edit(
        &sdk.join("abi/mod.rs"),
        "mod root;",
        "mod reward;\nmod root;",
    );
    let end = "        }\n    };\n}\n\nmacro_rules! kind_and_make";
    let row = how_to("sdk/src/kinds.rs");
    edit(&sdk.join("kinds.rs"), end, &format!("{row}{end}"));

    let plugin = dir.join("reward");
    fs::create_dir_all(plugin.join("src")).unwrap();
    fs::write(
        plugin.join("Cargo.toml"),
        "[package]\nname = \"reward\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\napus-sdk.workspace = true\n",
    )
    .unwrap();
    let template = how_to("src/plugin/templates/reward/lib.rs");
    let source = template.replace("{{component}}", "length");
    fs::write(plugin.join("src/lib.rs"), source).unwrap();
    edit(
        &dir.join("Cargo.toml"),
        "\"host\"]",
        "\"host\", \"reward\"]",
    );
    // The host asks a plugin for a component of the new kind when it is given its name.
    edit(
        &dir.join("host/src/main.rs"),
        "use apus_sdk::{Loss,",
        "use apus_sdk::{Loss, Reward,",
    );
    edit(
        &dir.join("host/src/main.rs"),
        "let made = library",
        "if let Some(name) = std::env::args().nth(2) {\n\
             let made = library.make::<dyn Reward>(&name, &Options::new(), abi::Origin::new(\"it\"));\n\
             return println!(\"{:?}\", made.and_then(|reward| reward.reward(\"Who?\", \"A cat.\")));\n\
         }\n\
         let made = library",
    );
}

/// A workspace with the SDK as it is, or as a next minor version with tables that have grown and one more kind; the focal
/// loss as a plugin; and a host that loads a plugin and runs it.
fn workspace(name: &str, next: bool) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let root = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let manifest = workspace_manifest(&root, &["sdk", "focal-loss", "host"]);
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::copy(Path::new(ROOT).join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    copy(&Path::new(ROOT).join("sdk"), &dir.join("sdk"));
    copy(
        &Path::new(ROOT).join("examples/focal-loss"),
        &dir.join("focal-loss"),
    );
    fs::create_dir_all(dir.join("host/src")).unwrap();
    fs::write(
        dir.join("host/Cargo.toml"),
        "[package]\nname = \"host\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\napus-sdk.workspace = true\n",
    )
    .unwrap();
    fs::write(
        dir.join("host/src/main.rs"),
        "use apus_sdk::{Loss, Options, abi, testing::Chunk};\n\
         fn main() {\n\
             let path = std::env::args().nth(1).unwrap();\n\
             let library = abi::open(path.as_ref()).unwrap();\n\
             let made = library.make::<dyn Loss>(\"focal\", &Options::new(), abi::Origin::new(\"it\"));\n\
             let values = Chunk::random(4, 7, 1).per_token(made.unwrap().as_ref()).unwrap();\n\
             println!(\"host {} plugin {} {values:?}\", abi::SDK_VERSION, library.description().sdk);\n\
         }\n",
    )
    .unwrap();
    if next {
        add_kind(&dir);
        let sdk = dir.join("sdk");
        edit(
            &sdk.join("Cargo.toml"),
            "version = \"1.1.0\"",
            "version = \"1.2.0\"",
        );
        // A function more at the end of a kind's table and of the host's, an operation more.
        let loss = sdk.join("src/abi/loss.rs");
        let end = "}\n\n/// A [`LossChunk`].\n";
        let field = "    /// New.\n    pub newest: extern \"C\" fn() -> u32,\n";
        edit(&loss, end, &format!("{field}{end}"));
        edit(&loss, " } as LossTableRef", ", newest } as LossTableRef");
        let function = "extern \"C\" fn newest() -> u32 { 7 }\n\nunsafe extern \"C\" fn per_token(";
        edit(&loss, "unsafe extern \"C\" fn per_token(", function);
        let op = sdk.join("src/tensor/op.rs");
        edit(
            &op,
            "        Randn = 147,\n    }\n",
            "        Randn = 147,\n    }\n    since 2 {\n        /// New.\n        Newest = 999,\n    }\n",
        );
        edit(
            &dir.join("focal-loss/src/lib.rs"),
            "        let ce = chunk.cross_entropy()?;\n",
            "        let ce = chunk.cross_entropy()?;\n        if self.gamma == 9.0 {\n            return ce.call(apus_sdk::Op::Newest, &[], &[], &[]);\n        }\n",
        );
    }
    dir
}

fn library(profile: &str) -> PathBuf {
    target().join(profile).join("libfocal_loss.so")
}

fn train(plugin: &Path, out: &Path, flags: &[&str]) -> Output {
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    let (model, data) = (
        format!("{goldens}/model_bf16"),
        format!("{goldens}/chat_train.jsonl"),
    );
    let mut line = vec![
        "sft",
        "--device",
        "cpu",
        "--max_steps",
        "1",
        "--model",
        &model,
        "--dataset",
        &data,
    ];
    let (out, plugin) = (out.display().to_string(), plugin.display().to_string());
    line.extend([
        "--output_dir",
        &out,
        "--plugin",
        &plugin,
        "--loss_type",
        "focal",
    ]);
    line.extend(flags);
    apus(&line, &[])
}

/// Writes a crate as `apus plugin new` does.
fn new_crate(name: &str, kind: Kind, dir: &Path) {
    let (kind, folder) = (kind.name().replace(' ', "-"), dir.display().to_string());
    let line = ["plugin", "new", name, "--kind", &kind, "--dir", &folder];
    built(&apus(&line, &[]));
}

/// What `apus plugin check` says of a library of this crate, which it has to pass.
fn checked(name: &str) -> String {
    let file = target().join(format!("debug/lib{}.so", name.replace('-', "_")));
    let output = apus(&["plugin", "check", &file.display().to_string()], &[]);
    built(&output);
    let said = text(&output);
    assert!(said.contains("ok    ") && !said.contains("FAIL"), "{said}");
    said
}

/// What `apus plugin new` writes is whole: its tests pass, its library passes the check. So is the component of the front page in
/// such a crate. A crate stands alone, as that of an exporter does here; the others are members of one workspace, so that
/// cargo builds them side by side.
fn new_crates_are_whole(home: &Path) {
    const STANDS_ALONE: &str = "\n[workspace]\n";
    let (alone, together) = (home.join("new-exporter"), home.join("together"));
    let page = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (_, code) = page
        .split_once("```rust\n")
        .expect("a component in README.md");
    let (code, _) = code
        .split_once("```")
        .expect("the end of the component in README.md");

    new_crate("new-exporter", Kind::Exporter, &alone);
    let mut members = vec!["front-page".to_owned()];
    new_crate("front-page", Kind::LossScale, &together.join("front-page"));
    let source = format!("apus_sdk::export_plugin!();\n\n{code}");
    fs::write(together.join("front-page/src/lib.rs"), source).unwrap();
    for &kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Exporter) {
        let name = format!("new-{}", kind.name().replace(' ', "-"));
        new_crate(&name, kind, &together.join(&name));
        members.push(name);
    }
    for member in &members {
        edit(
            &together.join(member).join("Cargo.toml"),
            STANDS_ALONE,
            "\n",
        );
    }
    let manifest = format!("[workspace]\nmembers = {members:?}\nresolver = \"3\"\n");
    fs::write(together.join("Cargo.toml"), manifest).unwrap();
    for workspace in [&alone, &together] {
        let lock = workspace.join("Cargo.lock");
        fs::copy(Path::new(ROOT).join("Cargo.lock"), lock).unwrap();
        built(&cargo(workspace, &["test", "--workspace"]));
        built(&cargo(workspace, &["build", "--workspace"]));
    }
    checked("new-exporter");
    for member in &members {
        let said = checked(member);
        assert!(
            member != "front-page" || said.contains("loss scale no_apology"),
            "{said}"
        );
    }
}

/// One test, so that nothing is built twice or at the same time.
#[test]
fn plugins_built_otherwise() {
    if !cfg!(target_os = "linux") {
        println!("skipped: written for Linux");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let now = workspace("sdk_now", false);
    built(&cargo(&now, &["build", "-p", "focal-loss", "-p", "host"]));
    let older = home.path().join("older.so");
    fs::copy(library("debug"), &older).unwrap();

    let next = workspace("sdk_next", true);
    built(&cargo(&next, &["build", "--workspace"]));
    let newer = home.path().join("newer.so");
    fs::copy(library("debug"), &newer).unwrap();
    let host = target().join("debug/host");

    // A plugin of the version before in a host of the next one, and of that one itself.
    let run = |plugin: &Path| {
        let output = Command::new(&host).arg(plugin).output().unwrap();
        built(&output);
        text(&output)
    };
    let (old, new) = (run(&older), run(&newer));
    assert!(old.contains("host 1.2.0 plugin 1.1.0"), "{old}");
    assert!(new.contains("host 1.2.0 plugin 1.2.0"), "{new}");
    let values = |said: &str| said.split_once('[').map(|(_, values)| values.to_owned());
    assert_eq!(values(&old), values(&new));

    // A component of a kind that came with the next version: the plugin that has one gives it, the one of the version
    // before cannot, and this host does not know the kind.
    let reward = target().join("debug/libreward.so");
    let ask = |plugin: &Path| {
        let output = Command::new(&host).arg(plugin).arg("length").output();
        let output = output.unwrap();
        built(&output);
        text(&output)
    };
    assert_eq!(ask(&reward).trim(), format!("Ok({})", 1.0 / 19.0));
    let said = ask(&older);
    assert!(
        said.contains(
            "built with apus-sdk 1.1.0, which has no kind of component \\\"reward\\\" yet"
        ),
        "{said}"
    );
    assert!(
        ask(&newer).contains("there is no reward length"),
        "{}",
        ask(&newer)
    );
    let file = reward.display().to_string();
    let said = text(&apus(&["plugin", "check", &file], &[]));
    assert!(
        said.contains("it has a reward, a kind of component that this Apus, with apus-sdk 1.1.0, does not know"),
        "{said}"
    );

    // A plugin of the next version here: it works, and what this host lacks is said.
    built(&train(&newer, &home.path().join("a"), &[]));
    let said = text(&train(
        &newer,
        &home.path().join("b"),
        &["--loss_type.gamma", "9"],
    ));
    assert!(
        said.contains("Newest needs a host with apus-sdk 1.2, this one has 1.1"),
        "{said}"
    );

    // Stripped, and in release for a debug host.
    built(&cargo(&now, &["build", "--release", "-p", "focal-loss"]));
    let stripped = home.path().join("stripped.so");
    let strip = Command::new("strip")
        .arg("-o")
        .args([&stripped, &library("release")])
        .output();
    match strip {
        Ok(output) if output.status.success() => {
            built(&train(&stripped, &home.path().join("c"), &[]))
        }
        _ => println!("skipped: there is no strip"),
    }

    // A library that it depends on is gone.
    let (source, gone) = (home.path().join("gone.c"), home.path().join("libgone.so"));
    fs::write(&source, "int gone(void) { return 1; }\n").unwrap();
    built(
        &Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&gone, &source])
            .output()
            .unwrap(),
    );
    let search = format!("-Clink-arg=-L{}", home.path().display());
    let plain = ["rustc", "-p", "focal-loss", "--lib", "--"];
    let with = [
        "-Clink-arg=-Wl,--no-as-needed",
        &search,
        "-Clink-arg=-lgone",
    ];
    built(&cargo(&now, &[&plain[..], &with].concat()));
    fs::remove_file(&gone).unwrap();
    let said = text(&train(&library("debug"), &home.path().join("d"), &[]));
    assert!(
        said.contains("depends on libgone.so, which is not there"),
        "{said}"
    );

    // One that aborts is not even built.
    let output = cargo(&now, &[&plain[..], &["-Cpanic=abort"]].concat());
    assert!(!output.status.success());
    assert!(
        text(&output).contains("a plugin that aborts on a panic"),
        "{}",
        text(&output)
    );

    new_crates_are_whole(home.path());

    // A crate is built by cargo and installed.
    let dir = home.path().join("new-exporter").display().to_string();
    let (plugins, target) = (home.path().join("plugins"), target());
    let mut environment = vec![
        ("CARGO", env!("CARGO")),
        ("APUS_PLUGIN_HOME", plugins.to_str().unwrap()),
        ("CARGO_TARGET_DIR", target.to_str().unwrap()),
    ];
    environment.extend(PROFILES);
    let said = apus(&["plugin", "install", &dir, "--yes"], &environment);
    built(&said);
    assert!(
        text(&said).contains("installed: new-exporter 0.1.0"),
        "{}",
        text(&said)
    );
    let said = apus(
        &["plugin", "list", "--plugin", "new-exporter"],
        &environment,
    );
    built(&said);
    assert!(
        text(&said).contains("exporter new_exporter"),
        "{}",
        text(&said)
    );
}
