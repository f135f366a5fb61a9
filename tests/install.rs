//! Plugins that are installed with the real binary: from files, crates, and indices in folders, repositories and on a server of this
//! machine.

mod common;
#[path = "../core/data/tests/loopback/mod.rs"]
mod loopback;

use common::{apus, library, text, words};
use loopback::{Answer, Server, sha256};
use std::env::consts::{ARCH, DLL_SUFFIX, OS};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A user with a folder of plugins.
struct User {
    folder: tempfile::TempDir,
    cargo: String,
}

impl User {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            cargo: env!("CARGO").to_owned(),
        }
    }

    fn run(&self, line: &str) -> (bool, String) {
        let home = self.home().display().to_string();
        let environment = [
            ("XDG_DATA_HOME", ""),
            ("APUS_PLUGIN_HOME", home.as_str()),
            ("APUS_PLUGIN_INDEX", ""),
            ("NO_PROXY", "127.0.0.1"),
            ("CARGO", &self.cargo),
            ("LIBRARY", &library("muon").display().to_string()),
        ];
        let output = apus(&words(line), &environment);
        let said = text(&output);
        assert!(!said.contains("apus has a bug"), "{said}");
        (output.status.success(), said)
    }

    #[track_caller]
    fn works(&self, line: &str) -> String {
        let (fine, said) = self.run(line);
        assert!(fine, "apus {line}\n{said}");
        said
    }

    /// A command that fails, says all of this, and leaves what is installed as it is.
    #[track_caller]
    fn fails(&self, line: &str, says: &[&str]) {
        let before = self.installed();
        let (fine, said) = self.run(line);
        assert!(!fine, "apus {line}\n{said}");
        for part in says {
            assert!(said.contains(part), "apus {line}\n{part:?} not in:\n{said}");
        }
        assert_eq!(self.installed(), before, "apus {line}");
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Every file below the folder of plugins with its hash.
    fn installed(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![self.home()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push((path.clone(), sha256(&fs::read(&path).unwrap()))),
                }
            }
        }
        found.sort();
        found
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}

/// An entry of an index.
fn entry(name: &str, version: &str, rest: &str) -> String {
    format!(
        "name = {name:?}\nversion = {version:?}\nabout = \"Of a test\"\nkinds = [\"optimizer\"]\nsdk = \"1.0\"\nlicence = \"MIT\"\n{rest}\n"
    )
}

fn built_already(url: &str, sha256: &str) -> String {
    format!("[libraries.{ARCH}-{OS}]\nurl = {url:?}\nsha256 = {sha256:?}")
}

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
        .find(|(_, sum)| *sum == hash)
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

#[test]
fn an_index_on_a_server() {
    let user = User::new();
    let muon = fs::read(library("muon")).unwrap();
    let (hash, other) = (sha256(&muon), sha256(b"another"));
    let server = Server::start({
        let (muon, hash) = (muon.clone(), hash.clone());
        move |request, _| match request.path.as_str() {
            "/i/index.toml" => Answer::new(200, "plugins = [\"muon\", \"moved\", \"bad\"]"),
            "/i/muon.toml" => Answer::new(
                200,
                entry("muon", "0.1.0", &built_already("libs/muon.so", &hash)),
            ),
            "/i/libs/muon.so" => Answer::new(200, &muon[..]),
            "/i/changed.toml" => Answer::new(
                200,
                entry("changed", "0.1.0", &built_already("libs/muon.so", &other)),
            ),
            "/i/moved.toml" => Answer::new(
                200,
                entry("moved", "0.1.0", &built_already("moved.so", &hash)),
            ),
            "/i/moved.so" => Answer::new(302, "").with("location", "http://a.example/x.so"),
            "/i/bad.toml" => Answer::new(200, "name = 3"),
            "/i/large.toml" => Answer {
                endless: true,
                ..Answer::new(200, vec![b'#'; 1 << 16])
            },
            _ => Answer::new(404, ""),
        }
    });
    let index = format!("--index {}/i", server.url);
    let listed = user.works(&format!("plugin list --available {index}"));
    assert!(
        listed.contains("muon 0.1.0  Of a test") && listed.contains("a library"),
        "{listed}"
    );
    assert!(listed.contains("bad.toml"), "{listed}");
    assert!(server.asked("muon.so").is_empty());
    let said = user.works(&format!("plugin install muon {index}"));
    assert!(
        said.contains("muon 0.1.0") && said.contains(&hash),
        "{said}"
    );
    user.works("plugin list --plugin muon");
    for (name, says) in [
        ("changed", "It was not installed"),
        ("moved", "an address of http, expected https"),
        ("bad", "bad.toml"),
        ("large", "larger than 1 MiB"),
        ("none", "has no plugin none; there are bad, moved, muon"),
    ] {
        user.fails(&format!("plugin install {name} {index}"), &[says]);
    }
    user.fails(
        "plugin install muon --index http://a.example/i",
        &["an address of http, expected https"],
    );
}

/// A folder as an index, whose entry changes.
#[test]
fn another_checksum_of_the_same_version_stops() {
    let user = User::new();
    let index = user.folder.path().join("index");
    let line = format!("plugin install muon --index {}", index.display());
    let put = |version: &str, bytes: &[u8]| {
        user.write("index/libs/muon.so", bytes);
        let library = built_already("libs/muon.so", &sha256(bytes));
        user.write("index/muon.toml", entry("muon", version, &library));
    };
    let first = fs::read(library("muon")).unwrap();
    let second = [&first[..], b" "].concat();
    put("0.1.0", &first);
    user.works(&line);
    put("0.1.0", &second);
    user.fails(&line, &["installed with the sha256", "plugin remove muon"]);
    put("0.1.1", &second);
    user.works(&line);
    put("0.1.1", &first);
    user.fails(&line, &["version 0.1.1 is installed"]);
    user.works("plugin remove muon");
    user.works(&line);

    if cfg!(unix) {
        fs::remove_file(index.join("libs/muon.so")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(library("muon"), index.join("libs/muon.so")).unwrap();
        user.works("plugin remove muon");
        user.fails(&line, &["a link leads out of"]);
    }
    user.write(
        "index/muon.toml",
        entry(
            "muon",
            "1.0.0",
            "[libraries.riscv64-minix]\nurl = \"a\"\nsha256 = \"\"",
        ),
    );
    user.fails(&line, &["libraries.riscv64-minix.sha256"]);
}

/// A program in cargo's place that tells what it was asked, and gives a library that is there.
#[cfg(unix)]
fn cargo(user: &mut User) {
    use std::os::unix::fs::PermissionsExt;
    let script = r#"#!/bin/sh
echo "$@" >> "$0.log"
at="$(pwd -P)/Cargo.toml"
case "$1" in
metadata) echo "{\"packages\": [{\"name\": \"muon\", \"version\": \"0.1.0\", \"license\": \"MIT\", \"manifest_path\": \"$at\"}]}" ;;
build) echo "{\"reason\": \"compiler-artifact\", \"manifest_path\": \"$at\", \"filenames\": [\"$LIBRARY\"]}" ;;
esac
"#;
    let file = user.write("cargo", script);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    user.cargo = file.display().to_string();
}

fn git(folder: &Path, line: &str) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@a.example"])
        .args(words(line))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {line}\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
#[cfg(unix)]
fn a_crate_is_built_after_asking() {
    let mut user = User::new();
    cargo(&mut user);
    user.write("crate/Cargo.toml", "");
    let folder = user.folder.path().join("crate").display().to_string();
    user.fails(
        &format!("plugin install {folder}"),
        &["cargo builds", "there is no terminal to ask at, give --yes"],
    );
    assert!(!user.folder.path().join("cargo.log").exists());
    let said = user.works(&format!("plugin install {folder} --yes"));
    assert!(said.contains("installed: muon 0.1.0"), "{said}");
    user.works("plugin list --plugin muon");
    user.write("empty/a", "");
    user.fails(
        &format!(
            "plugin install {}/empty --yes",
            user.folder.path().display()
        ),
        &["a folder without a Cargo.toml"],
    );
}

/// A repository on a server: as an index, and as the source of a plugin.
#[test]
#[cfg(unix)]
fn an_index_and_a_source_in_git() {
    let mut user = User::new();
    cargo(&mut user);
    user.write("source/crates/muon/Cargo.toml", "");
    let source = user.folder.path().join("source");
    git(&source, "init -q");
    git(&source, "add .");
    git(&source, "commit -q -m one");
    let commit = git(&source, "rev-parse HEAD");
    git(&source, "update-server-info");
    let files = source.join(".git");
    let server = Server::start(move |request, _| {
        let path = request.path.split('?').next().unwrap_or_default();
        match fs::read(files.join(path.trim_start_matches("/muon.git/"))) {
            Ok(bytes) => Answer::new(200, bytes),
            Err(_) => Answer::new(404, ""),
        }
    });
    let text = |commit: &str, folder: &str| {
        let rest = format!(
            "git = \"{}/muon.git\"\ncommit = {commit:?}\nfolder = {folder:?}",
            server.url
        );
        entry("muon", "0.1.0", &rest)
    };
    user.write("index/muon.toml", text(&commit, "crates/muon"));
    let index = user.folder.path().join("index");
    git(&index, "init -q");
    git(&index, "add .");
    git(&index, "commit -q -m one");
    let line = format!("plugin install muon --index git+file://{}", index.display());
    user.fails(
        &line,
        &["git clones", "there is no terminal to ask at, give --yes"],
    );
    assert!(server.seen().is_empty());
    let said = user.works(&format!("{line} --yes"));
    assert!(said.contains(&format!("git#{commit}")), "{said}");
    user.works("plugin list --plugin muon");

    let line = format!("plugin install muon --yes --index {}", index.display());
    user.write("index/muon.toml", text(COMMIT, "crates/muon"));
    user.fails(&line, &["installed with the commit"]);
    user.works("plugin remove muon");
    user.fails(&line, &["git checkout failed", COMMIT]);
    user.write("index/muon.toml", text(&commit, "crates/no"));
    user.fails(&line, &["crates/no"]);
    let later = text(&commit, "crates/muon").replace("0.1.0", "0.2.0");
    user.write("index/muon.toml", later);
    user.fails(&line, &["is muon 0.1.0, the index says muon 0.2.0"]);
}

/// The index of the examples says what their manifests say, and its source is in this repository.
#[test]
fn the_index_of_the_examples_is_true() {
    let user = User::new();
    let folder = Path::new(ROOT).join("examples/index");
    let listed = user.works(&format!(
        "plugin list --available --index {}",
        folder.display()
    ));
    assert!(!listed.contains("warning"), "{listed}");
    let mut names = Vec::new();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "index" || file.extension().is_none_or(|end| end != "toml") {
            continue;
        }
        let value = |text: &str, key: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{key} = ")));
            line.unwrap_or_else(|| panic!("{}: {key}", file.display()))
                .split_once(" = ")
                .unwrap()
                .1
                .trim_matches('"')
                .to_owned()
        };
        let text = fs::read_to_string(&file).unwrap();
        let folder = value(&text, "folder");
        let manifest =
            fs::read_to_string(Path::new(ROOT).join(&folder).join("Cargo.toml")).unwrap();
        assert_eq!(value(&manifest, "name"), name);
        assert_eq!(
            value(&manifest, "version"),
            value(&text, "version"),
            "{name}"
        );
        let root = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
        assert_eq!(value(&root, "license"), value(&text, "licence"), "{name}");
        assert_eq!(value(&root, "repository"), value(&text, "git"), "{name}");
        let kinds = value(&text, "kinds");
        let said = user.works(&format!(
            "plugin list --plugin {}",
            library(&name.replace('-', "_")).display()
        ));
        for kind in kinds.trim_matches(['[', ']']).split(", ") {
            let kind = kind.trim_matches('"');
            assert!(
                said.contains(&format!("\n  {kind} ")),
                "{name}: {kind} in {said}"
            );
        }
        let commit = value(&text, "commit");
        let there = |what: &str| {
            let git = Command::new("git")
                .args(["cat-file", "-e", what])
                .current_dir(ROOT)
                .output();
            git.is_ok_and(|output| output.status.success())
        };
        match there(&commit) {
            true => assert!(
                there(&format!("{commit}:{folder}/Cargo.toml")),
                "{name}: {commit}"
            ),
            false => println!("skipped: the commit {commit} of {name} is not in this clone"),
        }
        names.push(name);
    }
    names.sort();
    assert!(names.len() >= 9, "{names:?}");
    let list = fs::read_to_string(folder.join("index.toml")).unwrap();
    let written: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(written, names);
}
