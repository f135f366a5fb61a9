//! Plugins that are installed with the real binary from files; what comes from an index is in `install_index.rs`.

mod common;
#[path = "../core/data/tests/loopback/mod.rs"]
mod loopback;

use common::user::User;
use common::{library, text};
use loopback::sha256;
use std::env::consts::DLL_SUFFIX;
use std::fs;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn a_library_is_installed_found_by_its_name_pinned_and_removed() {
    let user = User::new();
    let bytes = fs::read(library("two_cycles")).unwrap();
    let hash = sha256(&bytes);
    let said = user.works(&format!(
        "plugin install {}",
        library("two_cycles").display()
    ));
    assert!(
        said.contains("installed: two-cycles") && said.contains(&hash),
        "{said}"
    );
    let record = fs::read_to_string(user.home().join("two-cycles/plugin.toml")).unwrap();
    let origin = library("two_cycles").canonicalize().unwrap();
    assert!(
        record.contains(&hash) && record.contains(&origin.display().to_string()),
        "{record}"
    );
    for name in ["two-cycles", "two_cycles"] {
        let said = user.works(&format!("components schedule --plugin {name}"));
        assert!(said.contains("two_cosine_cycles"), "{said}");
    }
    // A path that exists comes first.
    let here = user.write("here/two-cycles", "no library");
    let output = Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(["plugin", "list", "--plugin", "two-cycles"])
        .current_dir(here.parent().unwrap())
        .env("APUS_PLUGIN_HOME", user.home())
        .output()
        .unwrap();
    assert!(
        text(&output).contains("no library at all"),
        "{}",
        text(&output)
    );

    // What a run writes pins it.
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    let out = user.folder.path().join("run");
    user.works(&format!(
        "sft --device cpu --add_version false --model {goldens}/model_bf16 --dataset {goldens}/chat_train.jsonl --max_steps 1 \
         --lora_rank 4 --output_dir {} --plugin two-cycles --lr_scheduler_type two_cosine_cycles",
        out.display()
    ));
    let args = fs::read_to_string(out.join("args.json")).unwrap();
    assert!(args.contains(&hash), "{args}");

    let pin = user.write(
        "pin.toml",
        "plugins = [{ path = \"two-cycles\", sha256 = \"00ff\" }]\n",
    );
    user.fails(
        &format!(
            "sft --config {} --model {goldens}/model_bf16 --dataset {goldens}/chat_train.jsonl --dry_run true",
            pin.display()
        ),
        &["the configuration pins 00ff", "It was not opened"],
    );

    let listed = user.works("plugin list");
    assert!(listed.contains("installed: two-cycles"), "{listed}");
    user.fails(
        "plugin list --plugin two-cycle",
        &["no plugin of this name is installed (two-cycles are)"],
    );
    // A file that has changed since is not opened.
    let file = user
        .installed()
        .into_iter()
        .find(|(_, held)| *held == bytes)
        .unwrap()
        .0;
    fs::write(&file, [&bytes[..], b" "].concat()).unwrap();
    user.fails(
        "plugin list --plugin two-cycles",
        &["it was installed with", "It was not opened"],
    );
    user.works(&format!(
        "plugin install {}",
        library("two_cycles").display()
    ));
    user.works("plugin list --plugin two-cycles");
    user.works("plugin remove two_cycles");
    assert!(!user.home().join("two-cycles").exists());
    user.fails(
        "plugin remove two-cycles",
        &["no plugin of this name is installed"],
    );
    user.fails(
        "plugin list --plugin two-cycles",
        &["no plugin of this name"],
    );
}

#[test]
fn what_is_no_plugin_for_here_is_not_installed_and_what_is_there_stays() {
    let user = User::new();
    let muon = library("muon");
    user.works(&format!("plugin install {} --name mine", muon.display()));
    let whole = fs::read(&muon).unwrap();
    let mut other = whole.clone();
    other[18..20].copy_from_slice(&183u16.to_le_bytes());
    let mut two = whole.clone();
    let tag = b"apus-sdk 1.";
    let tags = 0..whole.len() - tag.len();
    let tags = tags.filter(|&at| whole[at..].starts_with(tag));
    tags.for_each(|at| two[at + tag.len() - 2] = b'2');
    assert_ne!(two, whole);
    for (name, bytes, says) in [
        ("arm.so", other, "it was built for aarch64"),
        ("two.so", two, "built with apus-sdk 2."),
        ("cut.so", whole[..20_000].to_vec(), "the file is cut off"),
        ("text.so", b"text".to_vec(), "no library at all"),
    ] {
        if name == "arm.so" && !cfg!(target_arch = "x86_64") {
            continue;
        }
        let file = user.write(name, bytes);
        user.fails(
            &format!("plugin install {} --name mine", file.display()),
            &[says],
        );
    }
    for name in ["../mine", "a/b", "..", ".", "a.b", "/tmp/x"] {
        user.fails(
            &format!("plugin install {} --name {name}", muon.display()),
            &["is no name of a plugin"],
        );
        user.fails(
            &format!("plugin remove {name}"),
            &["is no name of a plugin"],
        );
    }
    user.fails("plugin install ../no/such", &["it is no name of a plugin"]);
    user.fails("plugin install muon", &["give one with --index"]);
}

/// What a killed process leaves is the plugin of before, and the next one clears it away; two at once are one after another.
#[test]
fn kills_and_two_at_once() {
    let user = User::new();
    let install = format!("plugin install {} --name mine", library("muon").display());
    user.works(&install);
    let whole = user.installed();
    user.write("plugins/mine/plugin.toml.new", "name = \"mi");
    user.write(&format!("plugins/mine/libmine-0000{DLL_SUFFIX}"), "half");
    user.write(
        &format!("plugins/half/libhalf-0000{DLL_SUFFIX}.new"),
        "half",
    );
    let listed = user.works("plugin list --plugin mine");
    assert!(
        listed.contains("optimizer muon") && !listed.contains("half"),
        "{listed}"
    );
    user.works(&install);
    fs::remove_dir_all(user.home().join("half")).unwrap();
    assert_eq!(user.installed(), whole);

    std::thread::scope(|scope| {
        for name in ["muon", "chrf", "muon", "chrf"] {
            let user = &user;
            scope.spawn(move || {
                user.works(&format!(
                    "plugin install {} --name mine",
                    library(name).display()
                ))
            });
        }
    });
    user.works("plugin list --plugin mine");
    assert_eq!(user.installed().len(), whole.len());
}
