//! A library that ends the whole process, or a thread of its own: a line names the component, and the exit status is what it
//! would be without that line.
#![cfg(unix)]

mod common;

use common::{apus, text, words};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// The component that every message has to name.
const CRASHES: &str = "callback crashes of plugin hostile-plugin 0.1.0 (libhostile_plugin.so)";

/// A run of three steps with the hostile plugin.
fn run(out: &Path, flags: &str) -> Output {
    let library = common::library("hostile_plugin");
    let line = format!(
        "sft --device cpu --add_version false --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl \
         --val_dataset {GOLDENS}/chat_train.jsonl --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --max_steps 3 \
         --logging_steps 1 --eval_steps 2 --lora_rank 4 --output_dir {} --plugin {} {flags}",
        out.display(),
        library.display()
    );
    apus(&words(&line), &[])
}

#[test]
#[cfg(target_os = "linux")]
fn what_ends_the_process_is_named_and_the_status_stays() {
    let home = tempfile::tempdir().unwrap();
    let by_signal = |signal: i32| (None, Some(signal));
    let cases = [
        ("exit", (Some(7), None), "calling exit"),
        ("abort", by_signal(6), "SIGABRT"),
        ("memory", by_signal(11), "SIGSEGV"),
        ("stack", by_signal(6), "SIGSEGV"),
        ("instruction", by_signal(4), "SIGILL"),
        ("signal --callbacks.signal 4", by_signal(4), "SIGILL"),
        ("signal --callbacks.signal 6", by_signal(6), "SIGABRT"),
        ("signal --callbacks.signal 7", by_signal(7), "SIGBUS"),
        ("signal --callbacks.signal 8", by_signal(8), "SIGFPE"),
        ("signal --callbacks.signal 11", by_signal(11), "SIGSEGV"),
    ];
    for (how, (code, signal), says) in cases {
        let out = home.path().join(how.replace(' ', "_"));
        let output = run(&out, &format!("--callbacks crashes --callbacks.how {how}"));
        let said = text(&output);
        assert_eq!(
            (output.status.code(), output.status.signal()),
            (code, signal),
            "{how}\n{said}"
        );
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("the whole process"))
            .collect();
        assert_eq!(lines.len(), 1, "{how}\n{said}");
        assert!(
            lines[0].starts_with(&format!("error: {CRASHES}")) && lines[0].contains(says),
            "{how}\n{said}"
        );
        assert_eq!(
            said.contains("has overflowed its stack"),
            how == "stack",
            "{how}\n{said}"
        );
    }
}

/// Whatever the kind, and whichever of a run's threads calls it.
#[test]
fn a_component_of_any_kind_that_exits_is_named() {
    let home = tempfile::tempdir().unwrap();
    let cases = [
        ("dataset format", "--dataset_format exits"),
        ("loss scale", "--loss_scale exits"),
        ("loss", "--loss_type exits"),
        ("optimizer", "--optimizer exits"),
        ("schedule", "--lr_scheduler exits"),
        ("callback", "--callbacks exits"),
        ("metric", "--metrics exits"),
        ("tracker", "--trackers exits"),
    ];
    for (kind, flags) in cases {
        let output = run(&home.path().join(kind.replace(' ', "_")), flags);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(7), "{kind}\n{said}");
        let line = format!(
            "error: {kind} exits of plugin hostile-plugin 0.1.0 (libhostile_plugin.so): it has ended the whole process"
        );
        assert_eq!(said.matches(&line).count(), 1, "{kind}\n{said}");
    }
}

#[test]
fn a_panic_on_a_thread_of_a_library_is_told_once_and_the_run_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("run");
    let output = run(&out, "--callbacks crashes --callbacks.how thread");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("hostile on its own"))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].contains("plugin hostile-plugin 0.1.0: its own thread \"watcher\" panicked at")
            && lines[0].contains("crash.rs:"),
        "{said}"
    );
}
