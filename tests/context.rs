//! What components of a library see of the run, the rows and the batches that they work on, in the real binary: what they
//! declare they are given, and nothing else.

mod common;

use common::{apus, fails, folder, text, words, works};
use serde_json::{Value, json};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// Two steps of two micro-batches on the tiny model, with the plugin of tests.
fn sft(dir: &Path, flags: &str) -> String {
    sft_on(dir, &format!("{TINY}/chat_train.jsonl"), flags)
}

fn sft_on(dir: &Path, data: &str, flags: &str) -> String {
    let plugin = common::library("asking_plugin");
    format!(
        "sft --model {TINY}/model_bf16 --dataset {data} --val_dataset {TINY}/chat_train.jsonl \
         --current_date 2025-08-05 --device cpu --max_steps 2 --gradient_accumulation_steps 2 --eval_strategy no \
         --lora_rank 4 --learning_rate 1e-3 --max_new_tokens 3 --plugin {} \
         --output_dir {} --add_version false {flags}",
        plugin.display(),
        dir.display()
    )
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The f32 tensors of a file, by name.
fn tensors(file: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = fs::read(file).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let entries = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let values = data[at(0)..at(1)].chunks(4);
            let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (name, values.collect())
        })
        .collect()
}

/// Components of a library are given the run that they are part of.
#[test]
fn components_of_a_library_see_their_run() {
    let dir = folder("sees");
    works(&sft(
        &dir,
        "--callbacks sees --loss_type seeing --optimizer seeing --lr_scheduler seeing --metrics seeing \
         --predict_with_generate true --eval_strategy steps --eval_steps 1 --metric_for_best_model seen_answers",
    ));
    let lines = lines(&dir);
    let seen: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("seen_rank").is_some())
        .collect();
    assert_eq!(seen.len(), 2, "{lines:?}");
    for line in seen {
        assert_eq!(
            (&line["seen_rank"], &line["seen_ranks"]),
            (&4.into(), &1.into())
        );
        assert!(line["seen_parameters"].as_u64() > Some(1), "{line}");
        // Clipped to max_grad_norm, or as it was.
        let norm = line["seen_norm"].as_f64().unwrap();
        let expected = line["grad_norm"].as_f64().unwrap().min(1.0);
        assert!((norm - expected).abs() < 1e-4 * expected, "{line}");
    }
    let evaluated = lines
        .iter()
        .find(|line| line.get("eval_seen_answers").is_some());
    assert!(
        evaluated.unwrap()["eval_seen_answers"].as_f64() > Some(0.0),
        "{lines:?}"
    );
}

/// So do those that measure a model after its run: they see the configuration of what they are part of, which has no rank of new
/// adapters.
#[test]
fn components_of_a_library_see_what_is_measured() {
    let dir = folder("sees-run");
    works(&sft(&dir, "--loss_type seeing"));
    let line = sft(&dir, "");
    let plugin = line.split_once("--plugin ").unwrap().1;
    let plugin = plugin.split(' ').next().unwrap();
    let rows = format!(
        "--device cpu --plugin {plugin} --val_dataset {TINY}/chat_train.jsonl#2 --max_new_tokens 2"
    );
    let eval = format!("eval --adapters {}/checkpoint-2 {rows}", dir.display());
    fails(
        &eval,
        1,
        &["loss seeing", "saw Some(\"8\"), expected lora_rank 4"],
    );
    let infer = format!(
        "infer --model {TINY}/model_bf16 {rows} --metrics seeing --result_path {}/answers.jsonl",
        dir.display()
    );
    fails(
        &infer,
        1,
        &["metric seeing", "saw Some(\"null\"), expected lora_rank 4"],
    );
}

/// A value that a callback sets is what the run goes on with and saves; within a step it is refused.
#[test]
fn a_parameter_is_set_between_steps() {
    let dir = folder("sets");
    works(&sft(&dir, "--callbacks sees --callbacks.set 0.5"));
    let tensors = tensors(&dir.join("checkpoint-2/adapter_model.safetensors"));
    let all_half = |(_, values): &&(String, Vec<f32>)| values.iter().all(|value| *value == 0.5);
    assert_eq!(tensors.iter().filter(all_half).count(), 1, "{tensors:?}");

    let flags = "--callbacks sees --callbacks.set 0.5 --callbacks.event on_pre_optimizer_step";
    fails(
        &sft(&folder("sets-within"), flags),
        1,
        &["on_pre_optimizer_step: a parameter is set between steps"],
    );
}

#[test]
fn what_is_not_declared_is_not_given() {
    fails(
        &sft(&folder("silent"), "--callbacks silent"),
        1,
        &[
            "callback silent of plugin asking-plugin",
            "fn needs() -> &'static [Need] { &[Need::Run] }",
        ],
    );
}

/// A scale is told the channel and the columns of the row, and where its piece stands.
#[test]
fn a_scale_of_a_library_sees_the_row() {
    let row = |channel: &str, id: u64| {
        let messages =
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two"}]);
        json!({"messages": messages, "channel": channel, "id": id}).to_string()
    };
    let data = folder("row-data");
    fs::create_dir_all(&data).unwrap();
    let file = data.join("rows.jsonl");
    fs::write(&file, [row("a", 7), row("b", 8)].join("\n")).unwrap();
    let run = |scale: &str| {
        let flags = format!("--dry_run true --loss_scale {scale}");
        sft_on(&folder("row"), &file.display().to_string(), &flags)
    };
    works(&run("placed"));
    works(&run("placed+after"));
    fails(
        &run("after"),
        1,
        &["loss scale `after`", "sees (0, \"one two\""],
    );
    fails(
        &run("unplaced"),
        1,
        &[
            "loss scale `unplaced`",
            "fn needs() -> &'static [Need] { &[Need::Piece] }",
        ],
    );
}

/// A loss of a library weighs rows by a column that it has asked for, which is kept with their tokens: packed or not, read anew or
/// from the cache, and never from an entry of the cache that was made for other columns.
#[test]
fn a_loss_of_a_library_reads_columns_that_it_asks_for() {
    let row = |columns: Value| {
        let messages =
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two"}]);
        let mut row = json!({"messages": messages});
        let more = columns.as_object().unwrap().clone();
        row.as_object_mut().unwrap().extend(more);
        row.to_string()
    };
    let data = folder("column-data");
    fs::create_dir_all(&data).unwrap();
    let write = |name: &str, columns: Value| {
        let file = data.join(name);
        fs::write(&file, vec![row(columns); 4].join("\n")).unwrap();
        file.display().to_string()
    };
    let (cache, rows) = (
        data.join("cache"),
        write("rows.jsonl", json!({"importance": 0.25, "other": 4})),
    );
    let runs = std::cell::Cell::new(0);
    let line = |flags: &str| {
        runs.set(runs.get() + 1);
        let dir = folder(&format!("column-{}", runs.get()));
        let flags = format!("--loss_type weighted --logging_steps 1 {flags}");
        (sft_on(&dir, &rows, &flags), dir)
    };
    let loss = |flags: &str| {
        let (line, dir) = line(flags);
        let output = apus(&words(&line), &[("APUS_CACHE", cache.to_str().unwrap())]);
        assert!(output.status.success(), "{}", text(&output));
        lines(&dir)[0]["loss"].as_f64().unwrap()
    };
    let kept = "--load_from_cache_file true";
    let whole = loss("--loss_type.column other") / 4.0;
    for flags in [
        "",
        "--packing true --max_length 512",
        kept,
        kept,
        "--streaming true",
        "--columns {\"other\":\"importance\",\"importance\":\"other\"} --loss_type.column other",
    ] {
        let quarter = loss(flags);
        assert!(
            (quarter - 0.25 * whole).abs() < 1e-4 * whole,
            "{flags}: {quarter}, {whole}"
        );
    }
    let other = loss(&format!("{kept} --loss_type.column other"));
    assert!(
        (other - 4.0 * whole).abs() < 1e-4 * whole,
        "{other}, {whole}"
    );

    // What `apus data` writes trains as the rows do.
    let prepared = data.join("prepared.jsonl").display().to_string();
    let (line_of_sft, _) = line("--loss_type.column importance");
    let of_data = line_of_sft.replacen("sft ", "data ", 1);
    works(&format!("{of_data} --out {prepared}"));
    let dir = folder("column-prepared");
    works(&sft_on(
        &dir,
        &prepared,
        "--loss_type weighted --logging_steps 1",
    ));
    let quarter = lines(&dir)[0]["loss"].as_f64().unwrap();
    assert!(
        (quarter - 0.25 * whole).abs() < 1e-4 * whole,
        "{quarter}, {whole}"
    );

    let refused = |flags: &str, says: &[&str]| drop(fails(&line(flags).0, 1, says));
    refused(
        "--loss_type.column heaviness",
        &[
            "loss weighted of plugin asking-plugin",
            "`heaviness`",
            "there are importance, messages, other",
        ],
    );
    refused(
        "--loss_type.reads other",
        &["per_token", "fn columns(&self) -> Result<Vec<String>>"],
    );
    refused("--loss_type.panics true", &["columns", "no columns today"]);

    // A column that the loss reads is one that is used.
    let rows = write("strict.jsonl", json!({"importance": 2}));
    let strict = |flags: &str| {
        let flags = format!("--strict true --dry_run true {flags}");
        sft_on(&folder("column-strict"), &rows, &flags)
    };
    works(&strict("--loss_type weighted"));
    fails(&strict(""), 1, &["not used: importance"]);
}

/// A loss of a library weighs tokens by the channel of their row.
#[test]
fn a_loss_of_a_library_sees_channels() {
    let row = |channel: &str| {
        let messages =
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two"}]);
        json!({"messages": messages, "channel": channel}).to_string()
    };
    let data = folder("channel-data");
    fs::create_dir_all(&data).unwrap();
    let file = data.join("rows.jsonl");
    fs::write(&file, vec![row("a"); 4].join("\n")).unwrap();
    let plugin = std::env::current_exe().unwrap();
    let plugin = plugin.with_file_name(format!("{DLL_PREFIX}channel_loss{DLL_SUFFIX}"));
    let loss = |name: &str, channels: &str| {
        let dir = folder(name);
        let flags = format!(
            "--plugin {} --loss_type channel_loss --loss_type.channels {channels} --loss_type.factor 0.25 --logging_steps 1",
            plugin.display()
        );
        let line = sft_on(&dir, &file.display().to_string(), &flags);
        // The one plugin of this run.
        let (before, after) = line.split_once("--plugin ").unwrap();
        let (_, after) = after.split_once(' ').unwrap();
        works(&format!("{before}{after}"));
        let first = lines(&dir).remove(0);
        first["loss"].as_f64().unwrap()
    };
    let (quarter, whole) = (loss("channel-a", "a"), loss("channel-b", "b"));
    assert!(
        (quarter - 0.25 * whole).abs() < 1e-4 * whole,
        "{quarter}, {whole}"
    );
}
