//! Exports that are killed or run out of disk leave a whole model or none, and the next one starts clean.
#![cfg(target_os = "linux")]

mod common;

use apus_model::weights::Directory;
use common::{fails, folder, works};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// What is written: the merged model, experts packed again, one file, the adapter alone.
const FORMS: [&[&str]; 4] = [
    &["--merge_lora", "true"],
    &["--merge_lora", "true", "--quantize", "mxfp4"],
    &["--to_gguf", "true"],
    &["--to_vllm", "true"],
];

fn export(adapter: &str, form: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command
        .args(["export", "--exist_ok", "true"])
        .args(form)
        .args(["--model", &format!("{TINY}/model_mxfp4")])
        .args(["--adapters", &format!("{TINY}/adapter_grad_{adapter}")])
        .args(["--max_shard_size", "100KB", "--output_dir"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The bytes of a model's tensors, each of which can be read.
fn tensors(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let model = Directory::open(dir).unwrap();
    let read = |name: &str| {
        (
            name.to_owned(),
            model.stored(name).unwrap().to_vec().unwrap(),
        )
    };
    model.names().map(read).collect()
}

/// The bytes of a folder's files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = names(dir);
    names.sort();
    let read = |name: String| {
        let bytes = fs::read(dir.join(&name)).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    entries.map(|entry| name(entry).unwrap()).collect()
}

/// Kills at moments that are spread over the whole run, while a model is replaced by another one.
#[test]
fn a_killed_export_leaves_the_old_model_or_the_new_one() {
    for (number, form) in FORMS.iter().enumerate() {
        let home = folder(&format!("export-killed-{number}"));
        let out = home.join("merged");
        let mut made = Vec::new();
        let mut time = Duration::ZERO;
        for adapter in ["attn", "attn_experts"] {
            let started = Instant::now();
            assert!(export(adapter, form, &out).status().unwrap().success());
            time = started.elapsed();
            made.push(files(&out));
            fs::remove_dir_all(&out).unwrap();
        }
        assert!(export("attn", form, &out).status().unwrap().success());
        const KILLS: u32 = 24;
        for kill in 0..KILLS {
            let at = format!("{form:?}, kill {kill}");
            let mut child = export("attn_experts", form, &out).spawn().unwrap();
            std::thread::sleep(time * kill * 5 / (KILLS * 4));
            child.kill().unwrap();
            child.wait().unwrap();
            let aside = home.join(".merged.old");
            let there = if out.exists() { &out } else { &aside };
            assert!(made.contains(&files(there)), "{at}: neither old nor new");
            // The next one, which is let alone, finds its way from whatever was left.
            assert!(
                export("attn", form, &out).status().unwrap().success(),
                "{at}"
            );
            assert_eq!(names(&home), ["merged"], "{at}");
            assert!(files(&out) == made[0], "{at}");
        }
    }
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn an_export_that_finds_no_space_changes_nothing() {
    for (number, form) in FORMS.iter().enumerate() {
        let home = folder(&format!("export-full-{number}"));
        let out = home.join("merged");
        assert!(export("attn", form, &out).status().unwrap().success());
        let before = files(&out);
        let line = export("attn_experts", form, &out);
        let mut limited = Command::new("sh");
        let output = limited
            .args(["-c", "trap '' XFSZ; ulimit -f 60; exec \"$0\" \"$@\""])
            .arg(line.get_program())
            .args(line.get_args())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{form:?}: {said}");
        assert!(
            said.contains("nothing is left behind") && said.contains("File too large"),
            "{form:?}: {said}"
        );
        assert_eq!(names(&home), ["merged"]);
        assert!(files(&out) == before, "{form:?}");
    }
}

/// The adapter alone for vLLM: written beside the adapter, and merged to the same bytes.
#[test]
fn an_adapter_for_vllm_is_still_the_adapter() {
    let home = folder("export-vllm");
    let model = format!("{TINY}/model_mxfp4");
    let golden = format!("{TINY}/adapter_grad_attn_experts");
    let out = home.join("adapter");
    let line = format!(
        "export --model {model} --adapters {golden} --to_vllm true --output_dir {}",
        out.display()
    );
    let said = works(&line);
    let serve = "--enable-lora --max-lora-rank 8 --lora-modules NAME=";
    assert!(said.contains(serve), "{said}");
    fails(&line, 1, &["exists already"]);
    works(&format!("{line} --exist_ok true"));
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fails(&format!("{line} --exist_ok true"), 1, &["holds notes.txt"]);
    fs::remove_file(out.join("notes.txt")).unwrap();
    assert_eq!(names(&home), ["adapter"]);
    let merged = |adapter: &str, name: &str| {
        let dir = home.join(name);
        let dir_name = dir.display();
        works(&format!(
            "export --model {model} --adapters {adapter} --merge_lora true --output_dir {dir_name}"
        ));
        tensors(&dir)
    };
    assert!(merged(&golden, "a") == merged(&out.display().to_string(), "b"));
    for (adapter, flags, says) in [
        ("attn_dora", "", "use_dora is true"),
        ("attn", "--merge_lora true", "the adapter alone"),
        ("attn", "--quantize mxfp4", "the adapter alone"),
    ] {
        let line = format!("export --model {model} --adapters {TINY}/adapter_grad_{adapter}");
        let out = home.join("none");
        let line = format!(
            "{line} --to_vllm true {flags} --output_dir {}",
            out.display()
        );
        fails(&line, 1, &[says]);
        assert!(!out.exists());
    }
}
