//! Plugins that are installed with the real binary from crates and indices: in folders, repositories and on a server of this
//! machine.

mod common;
#[path = "../core/data/tests/loopback/mod.rs"]
mod loopback;

use common::user::User;
use common::{library, text, words};
use loopback::{Answer, Server, sha256};
use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

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
