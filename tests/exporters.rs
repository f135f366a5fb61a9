//! `apus export --to NAME`: the built-in forms by their names, and exporters of plugin libraries.

mod common;

use apus_model::weights::Directory;
use common::{fails, folder, works};
use half::bf16;
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// `--plugin` with a library that `cargo test` built beside this binary.
fn plugin(name: &str) -> String {
    let path = common::library(name);
    format!("--plugin {}", path.display())
}

/// The bytes of a folder's files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// A name and the flags that say the same write the same bytes.
#[test]
fn the_forms_by_their_names() {
    let home = folder("exporters-forms");
    let adapter = format!("--model {TINY}/model_mxfp4 --adapters {TINY}/adapter_grad_attn_experts");
    let dense = format!("--model {TINY}/model_bf16");
    for (number, (model, flags, to)) in [
        (&adapter, "--merge_lora true", "--to merged"),
        (&adapter, "--merge_lora true --quantize mxfp4", "--to mxfp4"),
        (
            &adapter,
            "--merge_lora true --experts_dtype bf16",
            "--to bf16",
        ),
        (&adapter, "--to_vllm true", "--to vllm"),
        (&adapter, "--to_gguf true", "--to gguf"),
        (
            &adapter,
            "--to_gguf true --outtype f32",
            "--to gguf --to.outtype f32",
        ),
        (&dense, "--quantize mxfp4", "--to mxfp4"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = |which: &str| home.join(format!("{number}-{which}"));
        let run = |which: &str, flags: &str| {
            let out = out(which);
            works(&format!(
                "export {model} {flags} --output_dir {}",
                out.display()
            ));
            files(&out)
        };
        let same = run("flags", flags) == run("name", to);
        assert!(same, "{to} and {flags} differ");
    }
    let line = |flags: &str| {
        format!(
            "export {adapter} {flags} --output_dir {}",
            home.join("no").display()
        )
    };
    for (flags, says) in [
        (
            "--to merged --merge_lora true",
            "to is merged: leave merge_lora",
        ),
        (
            "--to mxfp4 --experts_dtype bf16",
            "asks for another form of experts",
        ),
        ("--to gguf --to.outtype q4", "outtype"),
        ("--to ggup", "there is no exporter \"ggup\"; there are gguf"),
    ] {
        fails(&line(flags), 1, &[says]);
    }
    assert!(!home.join("no").exists());
}

fn norms(flags: &str, out: &Path) -> Value {
    works(&format!(
        "export {} --to norms {flags} --output_dir {}",
        plugin("norms"),
        out.display()
    ));
    let record = fs::read_to_string(out.join("export.json")).unwrap();
    assert!(
        record.contains("exporter norms of plugin norms 0.1.0"),
        "{record}"
    );
    serde_json::from_str(&fs::read_to_string(out.join("norms.json")).unwrap()).unwrap()
}

/// What an exporter reads is what the host would write: the values of files, with the adapter merged, in the form that is asked for.
#[test]
fn an_exporter_of_a_library_reads_what_would_be_written() {
    let home = folder("exporters-norms");
    let model = format!("{TINY}/model_bf16");
    let found = norms(&format!("--model {model}"), &home.join("plain"));
    let directory = Directory::open(Path::new(&model)).unwrap();
    assert_eq!(found.as_object().unwrap().len(), directory.names().count());
    for name in directory.names() {
        let stored = directory.stored(name).unwrap();
        let bytes = stored.to_vec().unwrap();
        let values = bytes
            .chunks_exact(2)
            .map(|b| f64::from(bf16::from_le_bytes([b[0], b[1]])));
        let norm = values.map(|v| v * v).sum::<f64>().sqrt();
        assert_eq!(found[name]["norm"].as_f64(), Some(norm), "{name}");
        assert_eq!(
            found[name]["shape"],
            serde_json::json!(stored.shape()),
            "{name}"
        );
    }

    let adapter = format!("--model {TINY}/model_mxfp4 --adapters {TINY}/adapter_grad_attn_experts");
    for form in ["", "--quantize mxfp4", "--experts_dtype bf16"] {
        let out = |what: &str| home.join(format!("{what}{}", form.len()));
        let through = norms(&format!("{adapter} {form}"), &out("through"));
        let written = out("written");
        works(&format!(
            "export {adapter} --merge_lora true {form} --output_dir {}",
            written.display()
        ));
        let again = norms(&format!("--model {}", written.display()), &out("again"));
        assert_eq!(through, again, "{form}");
        let packed = form == "--quantize mxfp4";
        let any_packed = again
            .as_object()
            .unwrap()
            .values()
            .any(|t| t["dtype"] == "U8");
        assert!(any_packed || !packed, "{again}");
    }
}

#[test]
fn a_failed_exporter_leaves_what_was_there() {
    let home = folder("exporters-fail");
    let out = home.join("out");
    let model = format!("--model {TINY}/model_mxfp4 --output_dir {}", out.display());
    let hostile = format!(
        "export {} {model} --exist_ok true --to fails",
        plugin("hostile_plugin")
    );
    let ways = [
        ("panic", "panicked at"),
        ("error", "hostile in export"),
        ("nothing", "there is none"),
        ("folder", "inner is no file, expected files alone"),
        ("missing", "the model has no tensor no.such.tensor"),
        ("beyond", "2 bytes from"),
        ("outside", "is no name of a file"),
    ];
    let fail = || {
        for (how, says) in ways {
            let line = format!("{hostile} --to.how {how}");
            fails(
                &line,
                1,
                &[
                    says,
                    "exporter fails of plugin hostile-plugin",
                    "nothing is left behind",
                ],
            );
        }
    };
    fail();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
    norms(&format!("--model {TINY}/model_bf16"), &out);
    let before = files(&out);
    fail();
    assert!(files(&out) == before);
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);

    let again = format!("export {} {model} --to norms", plugin("norms"));
    fails(&again, 1, &["exists already"]);
    works(&format!("{again} --exist_ok true --to.file other.json"));
    assert!(!out.join("norms.json").exists() && out.join("other.json").is_file());
    fs::write(out.join("thesis.txt"), "unique").unwrap();
    fails(
        &format!("{again} --exist_ok true"),
        1,
        &["holds thesis.txt"],
    );
    assert!(out.join("thesis.txt").is_file());
    let checked = works(&format!(
        "plugin check {}",
        plugin("norms").replace("--plugin ", "")
    ));
    assert!(checked.contains("a small model: norms.json"), "{checked}");
}
