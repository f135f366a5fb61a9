//! The table of kernels against everything else that says what a kernel takes: the `.cu` files, the code that launches
//! kernels, the check script. Runs without CUDA.
//!
//! `tests/kernels.json` is the table for the check script. After a change of the table:
//! `APUS_WRITE_KERNELS=1 cargo test -p apus-kernels --test declared`.

mod source;

use apus_kernels::{
    Attention, Declaration, Grid, In, MODULES, Module, Out, Parameter, attention_delta,
    declarations, dropout, lora_down,
};
use serde_json::{Value, json};
use source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: PathBuf, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(path, extension, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

/// All files of a folder with an extension, as one text.
fn texts(folder: &str, extension: &str) -> String {
    let mut found = Vec::new();
    files(root().join(folder), extension, &mut found);
    assert!(!found.is_empty(), "no .{extension} in {folder}");
    found
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

fn signature(parameters: &[Parameter]) -> String {
    let one = |p: &Parameter| format!("{} {}", p.c, p.name);
    parameters.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn declared(module: &Module) -> BTreeMap<String, String> {
    let here = |kernel: &Declaration| kernel.modules.iter().any(|m| m.name == module.name);
    let kernels = declarations().into_iter().filter(here);
    kernels
        .map(|kernel| (kernel.kernel.to_owned(), signature(&kernel.parameters)))
        .collect()
}

#[test]
fn the_sources_have_the_kernels_that_are_declared() {
    for module in MODULES {
        let source = Source::read(&root().join("src"), &format!("{}.cu", module.source));
        let (found, declared) = (source.kernels(), declared(module));
        for kernel in found.keys().chain(declared.keys()) {
            assert_eq!(
                found.get(kernel),
                declared.get(kernel),
                "{kernel} in {}.cu (left) and in the declaration of module {} (right)",
                module.source,
                module.name
            );
        }
    }
}

#[test]
fn every_source_is_compiled() {
    let mut sources = Vec::new();
    files(root().join("src"), "cu", &mut sources);
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let found: BTreeSet<String> = sources.into_iter().map(stem).collect();
    let compiled: BTreeSet<String> = MODULES.iter().map(|m| m.source.to_owned()).collect();
    assert_eq!(found, compiled);
    let names: BTreeSet<&str> = MODULES.iter().map(|module| module.name).collect();
    assert_eq!(names.len(), MODULES.len(), "two modules have one name");
}

#[test]
fn every_kernel_is_launched_and_checked() {
    let launches = texts("../model/src", "rs");
    let checks = texts("tests", "py");
    for Declaration { launcher, .. } in declarations() {
        let launched = launches.match_indices(launcher).any(|(at, _)| {
            let before = launches[..at].chars().next_back();
            let after = &launches[at + launcher.len()..];
            let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            whole && (after.starts_with(" {") || after.starts_with("::<"))
        });
        assert!(launched, "nothing in core/model/src launches {launcher}");
        assert!(
            checks.contains(launcher),
            "no script in core/kernels/tests checks {launcher}"
        );
    }
}

#[test]
fn sizes_are_those_of_the_sources() {
    use apus_kernels::*;
    for (file, name, value) in [
        ("common.cuh", "ELEMENTS_PER_BLOCK", ELEMENTS_PER_BLOCK),
        ("common.cuh", "ROWS_PER_BLOCK", ROWS_PER_BLOCK),
        ("route.cu", "PAIRS", PAIRS_PER_BLOCK),
        ("route.cu", "MAX_EXPERTS", MOST_ROUTED_EXPERTS),
        ("lora.cu", "DOWN_ROWS", DOWN_ROWS),
        ("paged.cu", "PAGE", PAGE),
        ("paged_attention.cuh", "PAGE", PAGE),
        ("paged_attention.cuh", "ROWS", PAGED_ROWS),
        ("paged_attention.cuh", "SHORT_SPAN", PAGED_SHORT_SPAN),
        ("paged_attention.cuh", "FEW_SPLITS", PAGED_FEW_SPLITS),
        ("paged_attention.cuh", "MOST_SPLITS", PAGED_MOST_SPLITS),
        ("paged_attention.cuh", "LEAST_SPLIT", PAGED_LEAST_SPLIT),
        ("paged_attention.cuh", "USUAL_SPLIT", PAGED_USUAL_SPLIT),
        ("sample.cuh", "SAMPLE_THREADS", SAMPLE_THREADS as usize),
        ("sample.cuh", "CHUNK", SAMPLE_CHUNK),
        ("sample.cuh", "BINS", SAMPLE_BINS),
        ("sample.cuh", "CANDIDATES", SAMPLE_CANDIDATES),
        ("product_hopper.cu", "MAX_GROUPS", MOST_PRODUCT_GROUPS),
        ("product_hopper.cu", "BLOCK_N", PRODUCT_COLUMNS_A_TILE),
        ("rows_route.cu", "ROUTE_EXPERTS", MOST_ROUTED_EXPERTS),
    ] {
        let text = fs::read_to_string(root().join("src").join(file)).unwrap();
        let constants = text
            .lines()
            .filter(|line| line.starts_with("constexpr int"));
        let words: Vec<&str> = constants
            .flat_map(|line| line.split([' ', ',', ';']))
            .collect();
        let found = words.windows(3).find(|words| words[0] == name);
        let found = found.unwrap_or_else(|| panic!("{file} has no constant {name}"));
        assert_eq!(found[2], value.to_string(), "{file}: {name}");
    }
}

#[test]
fn grids_and_names_follow_from_the_fields() {
    let (out, x, a) = (Out::at(0, &()), In::at(0, &()), In::at(0, &()));
    let mut down = lora_down {
        z: out,
        x,
        a,
        offsets: None,
        groups: 3,
        rows: 65,
        k: 64,
        eights: 8,
    };
    assert_eq!(down.grid(), Grid::new([3 + 3, 1, 1], 256));
    let (module, name) = down.target().unwrap();
    assert_eq!((module.name, name), ("lora", "lora_down_8"));
    down.eights = 9;
    let error = down.target().unwrap_err().to_string();
    assert_eq!(error, "there is no CUDA kernel lora_down_9");

    let dropout = dropout::<f32> {
        y: Out::at(0, &()),
        x: In::at(0, &()),
        keys: In::at(0, &()),
        width: 2880,
        seed: 1,
        threshold: 2,
        scale: 3.0,
        rows: 7,
    };
    assert_eq!(dropout.grid(), Grid::new([7, 3, 1], 256));
    assert_eq!(dropout.target().unwrap().1, "dropout_f32");

    let delta = attention_delta {
        delta: Out::at(0, &()),
        out: x,
        dout: x,
        tokens: 384,
        q_heads: 64,
        version: Attention::new(128).unwrap(),
    };
    assert_eq!(delta.grid(), Grid::new([192, 1, 1], 128));
    assert_eq!(delta.target().unwrap().0.name, "attention_d128");
}

/// The table as the check script reads it, one module or kernel to a line.
fn table() -> String {
    let line = |name: &str, value: Value| format!("    {}: {value}", Value::from(name));
    let modules = MODULES.iter().map(|module| {
        let Module {
            source,
            defines,
            only,
            ..
        } = module;
        line(
            module.name,
            json!({"source": format!("{source}.cu"), "defines": defines, "only": only}),
        )
    });
    let kernels = declarations().into_iter().map(|kernel| {
        let names: Vec<&str> = kernel.modules.iter().map(|module| module.name).collect();
        let parameter = |p: &Parameter| {
            let null = if p.null { " or null" } else { "" };
            format!("{} {}{null}", p.c, p.name)
        };
        let parameters: Vec<String> = kernel.parameters.iter().map(parameter).collect();
        line(
            kernel.kernel,
            json!({"modules": names, "parameters": parameters}),
        )
    });
    let section = |lines: Vec<String>| lines.join(",\n");
    format!(
        "{{\n  \"modules\": {{\n{}\n  }},\n  \"kernels\": {{\n{}\n  }}\n}}\n",
        section(modules.collect()),
        section(kernels.collect())
    )
}

#[test]
fn the_check_script_reads_this_table() {
    let path = root().join("tests/kernels.json");
    let table = table();
    if std::env::var_os("APUS_WRITE_KERNELS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let kernels: Value = serde_json::from_str(&table).unwrap();
    let count = kernels["kernels"].as_object().unwrap().len();
    assert_eq!(count, declarations().len(), "two kernels have one name");
    let written = fs::read_to_string(&path).unwrap();
    for (at, (written, expected)) in written.lines().zip(table.lines()).enumerate() {
        assert_eq!(
            written,
            expected,
            "tests/kernels.json:{} is not the table's: write it with APUS_WRITE_KERNELS=1",
            at + 1
        );
    }
    assert_eq!(written.len(), table.len());
}
