//! Checkpoints of which a bit has changed: whoever reads them notices before anything is done with them.

mod common;

use common::training::{Random, TINY, copy, refuses, sft, times, trains};
use common::{apus, text, words};
use std::fs;
use std::path::{Path, PathBuf};

/// A checkpoint of the tiny model, and the flags that it goes on with.
fn checkpoint(home: &Path, train_type: &str) -> (PathBuf, String) {
    let flags = format!(
        "--model {TINY}/model_mxfp4 --train_type {train_type} --gradient_accumulation_steps 2 --max_steps 3 \
         --lr_scheduler_type constant"
    );
    trains(&home.join("run"), &format!("{flags} --max_steps 2"));
    (home.join("run/checkpoint-2"), flags)
}

/// Whoever may read one file of a checkpoint may read all of them, as the umask says.
#[cfg(unix)]
#[test]
fn all_files_are_for_the_same_people() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    for train_type in ["lora", "full"] {
        let (checkpoint, _) = checkpoint(&home.path().join(train_type), train_type);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let usual = mode(&checkpoint.join("args.json"));
        let files: Vec<PathBuf> = fs::read_dir(&checkpoint)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(files.len() > 5, "{files:?}");
        for file in files {
            assert_eq!(mode(&file), usual, "{}", file.display());
        }
    }
}

/// A file of a checkpoint, any byte of all its files as likely as another, but each file at least now and then.
fn draw(random: &mut Random, checkpoint: &Path) -> (String, u64) {
    let mut files: Vec<(String, u64)> = fs::read_dir(checkpoint)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bits = 8 * entry.metadata().unwrap().len();
            (entry.file_name().into_string().unwrap(), bits)
        })
        .collect();
    files.sort();
    let (name, bits) = files[random.below(files.len() as u64) as usize].clone();
    (name, random.below(bits))
}

fn flip(path: &Path, bit: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

fn every_flipped_bit_is_noticed(train_type: &str, seed: u64, count: u64) {
    let home = tempfile::tempdir().unwrap();
    let (whole, flags) = checkpoint(home.path(), train_type);
    let mut random = Random::new(seed);
    for number in 0..count {
        let damaged = home.path().join("damaged/checkpoint-2");
        copy(&whole, &damaged);
        let (file, bit) = draw(&mut random, &damaged);
        flip(&damaged.join(&file), bit);
        let what = format!("{file}, bit {bit}, {number}");
        let run = home.path().join("resumed");
        let resume = format!("{flags} --resume_from_checkpoint {}", damaged.display());
        let said = refuses(&run, &resume, &["cannot be resumed"]);
        assert!(
            said.contains(&file) || file == "checksums.json",
            "{what}: {said}"
        );
        assert!(!run.join("logging.jsonl").exists(), "{what}: it has begun");
        reads_refuse(&damaged, train_type, &file, &what);
        fs::remove_dir_all(home.path().join("damaged")).unwrap();
    }
    let resume = format!("{flags} --resume_from_checkpoint {}", whole.display());
    trains(&home.path().join("resumed"), &resume);
}

/// Whoever answers with damaged weights, merges them, or starts from them, refuses as well.
fn reads_refuse(damaged: &Path, train_type: &str, file: &str, what: &str) {
    let damaged = damaged.display();
    let lines = match (train_type, file) {
        ("lora", "adapter_model.safetensors" | "adapter_config.json") => vec![
            format!("infer --adapters {damaged} --model {TINY}/model_mxfp4 --device cpu"),
            format!(
                "export --adapters {damaged} --model {TINY}/model_mxfp4 --merge_lora true --output_dir {damaged}-merged"
            ),
        ],
        ("full", "model.safetensors" | "config.json") => {
            vec![format!("infer --model {damaged} --device cpu")]
        }
        _ => Vec::new(),
    };
    for line in lines {
        let output = apus(&words(&line), &[]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {line}\n{said}");
        assert!(said.contains(file), "{what}: {line}\n{said}");
    }
}

#[test]
fn flipped_bits_are_noticed() {
    every_flipped_bit_is_noticed("lora", 1, 24);
}

#[test]
fn flipped_bits_of_a_whole_model_are_noticed() {
    every_flipped_bit_is_noticed("full", 2, 12);
}

#[test]
#[ignore = "long: scripts/soak"]
fn soak_flipped_bits_are_noticed() {
    every_flipped_bit_is_noticed("lora", 3, times(400));
    every_flipped_bit_is_noticed("full", 4, times(400));
}

#[test]
fn an_adapter_without_sums_is_read_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let (whole, flags) = checkpoint(home.path(), "lora");
    // As PEFT writes it: no sums, and nothing of Apus'.
    let peft = home.path().join("peft");
    fs::create_dir(&peft).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(whole.join(file), peft.join(file)).unwrap();
    }
    let merged = home.path().join("merged");
    let line = format!(
        "export --adapters {} --model {TINY}/model_mxfp4 --merge_lora true --output_dir {}",
        peft.display(),
        merged.display()
    );
    common::works(&line);
    // Such a folder gives its weights, and nothing to go on with.
    let run = home.path().join("resumed");
    let resume = format!("{flags} --resume_from_checkpoint {}", peft.display());
    refuses(&run, &resume, &["optimizer.safetensors is missing"]);
    trains(&run, &format!("{resume} --resume_only_model true"));
    refuses(
        &home.path().join("other"),
        &format!("{resume} --resume_only_model true --lora_alpha 64"),
        &["lora_alpha 32.0", "lora_alpha 64.0"],
    );
}

#[test]
fn sums_that_are_gone_are_missed() {
    let home = tempfile::tempdir().unwrap();
    let (whole, flags) = checkpoint(home.path(), "lora");
    fs::remove_file(whole.join("checksums.json")).unwrap();
    let resume = format!("{flags} --resume_from_checkpoint {}", whole.display());
    let run = home.path().join("resumed");
    refuses(
        &run,
        &resume,
        &["checksums.json is missing, which this checkpoint had"],
    );
}

/// A checkpoint as the version before this one wrote it.
#[test]
fn a_checkpoint_of_an_earlier_version_goes_on_and_says_what_is_not_known() {
    let home = tempfile::tempdir().unwrap();
    let (whole, flags) = checkpoint(home.path(), "lora");
    fs::remove_file(whole.join("checksums.json")).unwrap();
    let path = whole.join("trainer_state.json");
    let state = fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    for newer in ["version", "saved", "terms", "measured"] {
        state.as_object_mut().unwrap().remove(newer).unwrap();
    }
    fs::write(&path, state.to_string()).unwrap();
    let resume = format!("{flags} --resume_from_checkpoint {}", whole.display());
    let output = sft(&home.path().join("resumed"), &resume).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("made by an earlier version, without sums"),
        "{said}"
    );
    // Its args.json still tells what a step is.
    let other = format!("{resume} --gradient_accumulation_steps 3");
    refuses(
        &home.path().join("other"),
        &other,
        &["examples_per_step: the checkpoint has 2, this run 3"],
    );
    refuses(
        &home.path().join("other"),
        &format!("{resume} --data_seed 7"),
        &["data_seed: the checkpoint has 42, this run 7"],
    );
}
