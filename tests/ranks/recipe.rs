//! The tutorial's block with `apus` for `swift`, by two processes, and what comes after it: answers, merging, answers again.
//!
//! Its words stand here as they stand there. Paths are those of the tiny model and of data like the tutorial's; what takes long
//! is shortened by flags that come after, of which the last one counts.

use crate::common::training::{TINY, log};
use crate::common::{apus, text, words};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: &str = r#"
MASTER_PORT=$PORT \
NPROC_PER_NODE=4 \
CUDA_VISIBLE_DEVICES=0,1,2,3 \
swift sft --deepspeed zero3\
    --model /path/to/gpt-oss-20b \
    --dataset /path/to/train.json \
    --train_type lora \
    --torch_dtype bfloat16 \
    --num_train_epochs 35 \
    --per_device_train_batch_size 1 \
    --per_device_eval_batch_size 1 \
    --learning_rate 1e-4 \
    --lora_rank 8 \
    --lora_alpha 32 \
    --target_modules all-linear \
    --gradient_accumulation_steps 16 \
    --eval_steps 50 \
    --save_steps 50 \
    --save_total_limit 2 \
    --logging_steps 5 \
    --max_length 8192 \
    --output_dir output \
    --warmup_ratio 0.05 \
    --dataloader_num_workers 4 \
    --use_liger_kernel true \
    --load_from_cache_file false \
    --loss_scale ignore_empty_think \
    --save_strategy epoch\
    --model_author gxb \
    --model_name gxb-gpt-oss-20b-agent-distill \
    --report_to swanlab \
    --swanlab_project swift-robot
"#;

/// Rows like the tutorial's: translations with thoughts, and the catgirl's instructions.
fn rows(count: usize) -> String {
    let row = |at: usize| match at % 2 {
        0 => serde_json::json!({"messages": [
            {"role": "user", "content": format!("Source Text：They found {at} blankets. Style Guide：wikinews/Crime and Law")},
            {"role": "assistant", "content": format!("<think>\nxxx</think>\n\n他们发现了 {at} 条毯子。")},
        ]}),
        _ => serde_json::json!({
            "instruction": format!("沐雪的功能是什么？{at}"), "input": "",
            "output": "喵~本雪的主要功能是让你开心喵！", "history": [],
        }),
    };
    let rows: Vec<String> = (0..count).map(|at| row(at).to_string()).collect();
    rows.join("\n") + "\n"
}

#[test]
fn the_tutorials_block_trains_by_several_processes_answers_and_merges() {
    let dir = tempfile::tempdir().unwrap();
    let (train, val) = (dir.path().join("train.jsonl"), dir.path().join("val.jsonl"));
    fs::write(&train, rows(40)).unwrap();
    // Rows of `apus infer` have messages.
    let questions = rows(6);
    let questions: Vec<&str> = questions.lines().step_by(2).collect();
    fs::write(&val, questions.join("\n")).unwrap();
    for (deepspeed, ranks) in [("zero3", 2), ("zero2", 4)] {
        let home = dir.path().join(deepspeed);
        fs::create_dir(&home).unwrap();
        let run = block(&home, &train, deepspeed, ranks);
        let log = log(&run);
        let last = log
            .iter()
            .rfind(|line| line.get("train_loss").is_some())
            .unwrap();
        assert!(last["train_loss"].as_f64().unwrap().is_finite());
        let checkpoint = PathBuf::from(last["last_model_checkpoint"].as_str().unwrap());
        assert!(checkpoint.join("adapter_model.safetensors").is_file());
        answers(&checkpoint, &val);
    }
}

/// Runs the block with these changes; the folder of its run.
fn block(home: &Path, train: &Path, deepspeed: &str, ranks: usize) -> PathBuf {
    let block = BLOCK
        .replace("swift sft", &format!("{} sft", env!("CARGO_BIN_EXE_apus")))
        .replace("zero3", deepspeed)
        .replace("NPROC_PER_NODE=4", &format!("NPROC_PER_NODE={ranks}"))
        .replace("/path/to/gpt-oss-20b", &format!("{TINY}/model_mxfp4"))
        .replace("/path/to/train.json", &train.display().to_string());
    let script = format!(
        "{} --num_train_epochs 1 --swanlab_mode offline --device cpu",
        block.trim_end()
    );
    let mut bash = Command::new("bash");
    bash.args(["-euc", &script]).current_dir(home);
    bash.env("PORT", "29617").env("RAYON_NUM_THREADS", "1");
    bash.env("SWANLAB_ROOT", home.join("nobody"));
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let runs: Vec<PathBuf> = fs::read_dir(home.join("output"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    run.clone()
}

/// Answers by the adapter, merges it, and answers by what was merged.
fn answers(checkpoint: &Path, val: &Path) {
    let answer = |model: &str| {
        let result = checkpoint.join("answers.jsonl");
        let line = format!(
            "infer {model} --val_dataset {} --stream true --temperature 0 --max_new_tokens 8 --device cpu --result_path {}",
            val.display(),
            result.display()
        );
        let output = apus(&words(&line), &[]);
        assert!(output.status.success(), "{line}\n{}", text(&output));
        let answers = fs::read_to_string(&result).unwrap();
        fs::remove_file(&result).unwrap();
        assert_eq!(answers.lines().count(), 3, "{answers}");
    };
    answer(&format!("--adapters {}", checkpoint.display()));
    let line = format!(
        "export --adapters {} --merge_lora true",
        checkpoint.display()
    );
    let output = apus(&words(&line), &[]);
    assert!(output.status.success(), "{line}\n{}", text(&output));
    let merged = PathBuf::from(format!("{}-merged", checkpoint.display()));
    assert!(merged.join("config.json").is_file());
    answer(&format!("--model {}", merged.display()));
}
