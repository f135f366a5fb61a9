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

fn export(adapter: &str, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command
        .args(["export", "--merge_lora", "true", "--exist_ok", "true"])
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

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    entries.map(|entry| name(entry).unwrap()).collect()
}

/// Kills at moments that are spread over the whole run, while a model is replaced by another one.
#[test]
fn a_killed_export_leaves_the_old_model_or_the_new_one() {
    let home = folder("export-killed");
    let out = home.join("merged");
    let mut made = Vec::new();
    let mut time = Duration::ZERO;
    for adapter in ["attn", "attn_experts"] {
        let dir = home.join(adapter);
        let started = Instant::now();
        assert!(export(adapter, &dir).status().unwrap().success());
        time = started.elapsed();
        made.push(tensors(&dir));
        fs::remove_dir_all(dir).unwrap();
    }
    assert!(export("attn", &out).status().unwrap().success());
    const KILLS: u32 = 24;
    for kill in 0..KILLS {
        let mut child = export("attn_experts", &out).spawn().unwrap();
        std::thread::sleep(time * kill * 5 / (KILLS * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let aside = home.join(".merged.old");
        let there = if out.exists() { &out } else { &aside };
        let found = tensors(there);
        assert!(made.contains(&found), "kill {kill}: neither old nor new");
        // The next one, which is let alone, finds its way from whatever was left.
        assert!(export("attn", &out).status().unwrap().success(), "{kill}");
        assert_eq!(names(&home), ["merged"], "kill {kill}");
        assert!(tensors(&out) == made[0], "kill {kill}");
    }
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn an_export_that_finds_no_space_changes_nothing() {
    let home = folder("export-full");
    let out = home.join("merged");
    assert!(export("attn", &out).status().unwrap().success());
    let before = tensors(&out);
    let line = export("attn_experts", &out);
    let mut limited = Command::new("sh");
    let output = limited
        .args(["-c", "trap '' XFSZ; ulimit -f 60; exec \"$0\" \"$@\""])
        .arg(line.get_program())
        .args(line.get_args())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("nothing is left behind") && said.contains("File too large"),
        "{said}"
    );
    assert_eq!(names(&home), ["merged"]);
    assert!(tensors(&out) == before);
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
