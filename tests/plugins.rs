//! Plugin libraries and the real binary: what every example does in a run, the tutorial's command with
//! plugins in place of built-ins, and what is said of files and components that cannot be used.

mod common;

use common::plugins::{GOLDENS, fails, losses, sft};
use common::{apus, library, text, works};
use std::env::consts::DLL_SUFFIX;
use std::fs;
use std::path::Path;

#[test]
fn every_example_in_a_run() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str, flags: &str| {
        let out = home.path().join(name);
        let said = works(&sft(&out, &library(name), flags));
        assert!(!losses(&out).is_empty(), "{said}");
        (out, said)
    };
    let (out, _) = run("muon", "--optimizer muon");
    assert!(out.join("checkpoint-4/optimizer.safetensors").is_file());
    let args = fs::read_to_string(out.join("checkpoint-4/args.json")).unwrap();
    assert!(
        args.contains("\"name\": \"muon\"") && args.contains("sha256"),
        "{args}"
    );
    run("focal_loss", "--loss_type focal --loss_type.gamma 1.5");
    run("code_weights", "--loss_scale all+code_weights");
    run("two_cycles", "--lr_scheduler_type two_cosine_cycles");
    let (out, _) = run("chrf", "--metrics forced_chrf token_acc");
    let log = fs::read_to_string(out.join("logging.jsonl")).unwrap();
    assert!(log.contains("eval_forced_chrf"), "{log}");
    let (out, _) = run("sqlite_tracker", "--trackers sqlite");
    assert!(out.join("runs.sqlite").is_file());
    run("plateau", "--callbacks plateau --callbacks.patience 5");

    let table = home.path().join("questions.csv");
    fs::write(&table, "ask,reply\nhi,hello\nwho,me\n").unwrap();
    works(&format!(
        "sft --device cpu --model {GOLDENS}/model_bf16 --max_steps 1 --dataset {} --output_dir {} --plugin {}",
        table.display(),
        home.path().join("csv").display(),
        library("csv_columns").display()
    ));
}

/// What an optimizer keeps may have any shape: rows and columns of a matrix.
#[test]
fn state_of_other_shapes_than_the_parameters_resumes() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str, flags: &str| {
        let out = home.path().join(name);
        let flags = format!("--optimizer adafactor --optimizer.weight_decay 0.01 {flags}");
        works(&sft(&out, &library("adafactor"), &flags));
        out
    };
    let whole = run("whole", "");
    let from = whole.join("checkpoint-2");
    let rest = run(
        "rest",
        &format!("--resume_from_checkpoint {}", from.display()),
    );
    let last = |out: &Path, file: &str| fs::read(out.join("checkpoint-4").join(file)).unwrap();
    for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
        assert!(last(&whole, file) == last(&rest, file), "{file} differs");
    }
    let state = last(&whole, "optimizer.safetensors");
    let header = String::from_utf8_lossy(&state[..4000]);
    assert!(
        header.contains("//exp_avg_sq_row") && header.contains("//exp_avg_sq_col"),
        "{header}"
    );
}

/// Adafactor of rank 8 on the attention of the published model, with copies of its state and of the 3,981,312 values, so
/// that a step can be taken back.
#[test]
fn the_memory_plan_asks_the_optimizer() {
    let home = tempfile::tempdir().unwrap();
    let plan = |flags: &str| {
        let said = works(&format!(
            "sft --device cpu --model synthetic:gpt-oss-20b --tokenizer {GOLDENS}/model_bf16 --dry_run true \
             --dataset {GOLDENS}/chat_train.jsonl --output_dir {} {flags}",
            home.path().join("out").display()
        ));
        let line = said.lines().find(|line| line.contains("optimizer state"));
        line.unwrap()
            .trim()
            .rsplit("  ")
            .next()
            .unwrap()
            .trim()
            .to_owned()
    };
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    assert_eq!(plan(""), mib(2 * 4 * 3_981_312));
    assert_eq!(plan("--optimizer sgd"), "0.0 MiB");
    assert_eq!(plan("--optimizer lion"), mib(4 * 3_981_312));
    let sides = 2 * (2880 + 4096) + 2 * (2880 + 512) + 4 * (8 + 8);
    let flags = format!(
        "--plugin {} --optimizer adafactor",
        library("adafactor").display()
    );
    assert_eq!(plan(&flags), mib(2 * 4 * 24 * sides + 4 * 3_981_312));
}

/// The tutorial's command, with every component from a library, trains to the same bits.
#[test]
fn built_ins_loaded_instead_of_linked_in() {
    let home = tempfile::tempdir().unwrap();
    let tutorial = |out: &str, flags: &str| {
        works(&format!(
            "sft {flags} --deepspeed zero3 --device cpu --model {GOLDENS}/model_mxfp4 \
             --dataset {GOLDENS}/chat_train.jsonl --val_dataset {GOLDENS}/chat_train.jsonl --train_type lora \
             --torch_dtype bfloat16 --num_train_epochs 2 --per_device_train_batch_size 1 \
             --per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 \
             --target_modules all-linear --gradient_accumulation_steps 2 --eval_steps 50 --save_steps 50 \
             --save_total_limit 2 --logging_steps 1 --max_length 8192 --add_version false --warmup_ratio 0.05 \
             --dataloader_num_workers 4 --use_liger_kernel true --load_from_cache_file false \
             --save_strategy epoch --model_author gxb --model_name gxb-gpt-oss-20b-agent-distill \
             --report_to swanlab --swanlab_project swift-robot --output_dir {}",
            home.path().join(out).display()
        ));
        home.path().join(out)
    };
    let linked = tutorial(
        "linked",
        "--loss_scale ignore_empty_think --callbacks early_stop",
    );
    let config = home.path().join("run.toml");
    fs::write(
        &config,
        format!(
            "plugins = [{{ path = {:?}, prefix = \"so_\" }}]\n\
             dataset_format = \"so_messages\"\nloss_scale = \"so_default+so_ignore_empty_think\"\n\
             optimizer = \"so_adamw\"\nlr_scheduler_type = \"so_cosine\"\n\
             loss_type = \"so_cross_entropy\"\ncallbacks = [\"so_early_stop\"]\n\
             metrics = [\"so_token_acc\"]\ntrackers = [\"so_console\"]\n",
            library("builtins_plugin").display().to_string()
        ),
    )
    .unwrap();
    let loaded = tutorial("loaded", &format!("--config {}", config.display()));
    assert_eq!(losses(&linked).len(), 8 + 2, "{:?}", losses(&linked));
    assert_eq!(losses(&linked), losses(&loaded));
    let adapter =
        |run: &Path| fs::read(run.join("checkpoint-8/adapter_model.safetensors")).unwrap();
    assert!(adapter(&linked) == adapter(&loaded), "the adapters differ");
}

#[test]
fn a_folder_of_plugins_is_loaded_whole() {
    let home = tempfile::tempdir().unwrap();
    for name in ["muon", "chrf"] {
        fs::copy(
            library(name),
            home.path().join(format!("{name}{DLL_SUFFIX}")),
        )
        .unwrap();
    }
    let folder = home.path().display().to_string();
    let list = |folders: &str| {
        let output = apus(&["plugin", "list"], &[("APUS_PLUGIN_PATH", folders)]);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("optimizer muon: ") && said.contains("metric forced_chrf: "),
            "{said}"
        );
        said
    };
    list(&folder);

    // What cannot be used is left out and told.
    let bad = home.path().join(format!("a{DLL_SUFFIX}"));
    fs::write(&bad, "no library").unwrap();
    let said = list(&format!("/no/such:{folder}"));
    let bad = bad.display().to_string();
    for part in [
        "warning: APUS_PLUGIN_PATH names /no/such, which cannot be read",
        &format!("warning: plugin {bad}: this is not a shared library"),
    ] {
        assert_eq!(said.matches(part).count(), 1, "{part:?} in: {said}");
    }
    assert_eq!(said.matches("It is left out").count(), 2, "{said}");
    let help = apus(&["sft", "--help"], &[("APUS_PLUGIN_PATH", &folder)]);
    assert!(text(&help).contains("ns_steps"), "{}", text(&help));
    // Who names it is told that it cannot be.
    fails(
        &format!("plugin list --plugin {bad}"),
        &["no library at all"],
    );
}

#[test]
fn files_that_are_no_plugin_are_refused_before_they_are_opened() {
    let home = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], says: &str| {
        let file = home.path().join(name);
        fs::write(&file, bytes).unwrap();
        fails(&format!("plugin list --plugin {}", file.display()), &[says]);
    };
    let whole = fs::read(library("muon")).unwrap();
    check("empty.so", b"", "the file is empty");
    check(
        "text.so",
        b"this is a text, not a library",
        "no library at all",
    );
    check("cut.so", &whole[..20_000], "the file is cut off");
    check(
        "half.so",
        &whole[..whole.len() * 6 / 10],
        "the file is cut off",
    );
    let mut other = whole.clone();
    other[18..20].copy_from_slice(&183u16.to_le_bytes());
    if cfg!(target_arch = "x86_64") {
        check("arm.so", &other, "it was built for aarch64");
    }
    let mut old = whole.clone();
    let tag = b"apus-sdk 1.";
    let tags = 0..whole.len() - tag.len();
    let tags = tags.filter(|&at| whole[at..].starts_with(tag));
    tags.for_each(|at| old[at + tag.len() - 2] = b'2');
    assert_ne!(old, whole);
    check("two.so", &old, "was built with apus-sdk 2.");
    // A component that needs what only a later SDK has.
    let mut newer = fs::read(library("asking_plugin")).unwrap();
    let (need, later) = (b"generation", b"divination");
    let places = 0..newer.len() - need.len();
    let places: Vec<usize> = places.filter(|&at| newer[at..].starts_with(need)).collect();
    places
        .iter()
        .for_each(|&at| newer[at..at + need.len()].copy_from_slice(later));
    assert!(!places.is_empty());
    check(
        "newer.so",
        &newer,
        "its callback requests needs divination, which this Apus, with apus-sdk 1.",
    );
    check("newer.so", &newer, "update Apus");

    let copy = home.path().join("copy.so");
    let both = format!(
        "plugin list --plugin {} {}",
        library("muon").display(),
        copy.display()
    );
    fs::write(&copy, &whole).unwrap();
    let said = works(&both);
    assert_eq!(said.matches("optimizer muon: ").count(), 1, "{said}");
    // Another library that has a component of the same name.
    fs::write(&copy, [&whole[..], b" "].concat()).unwrap();
    let files = [&library("muon"), &copy].map(|file| file.canonicalize().unwrap());
    let [first, second] = files.each_ref().map(|file| file.display().to_string());
    fails(
        &both,
        &[
            "two components are called optimizer \"muon\"",
            "prefix",
            &first,
            &second,
        ],
    );
    fails(
        &format!("plugin list --plugin {}", library("no_root").display()),
        &["exports no root module"],
    );
    fails(
        "plugin list --plugin /no/such.so",
        &["there is no such file"],
    );
}

#[test]
fn check_finds_what_is_wrong() {
    // Components that keep the run that they are given are checked in one, and those that use what they do not declare are
    // found.
    let said = fails(
        &format!("plugin check {}", library("asking_plugin").display()),
        &["checks failed"],
    );
    let (mut component, mut failed) = ("", Vec::new());
    for line in said.lines() {
        let kinds = ["callback ", "loss ", "metric ", "optimizer ", "schedule "];
        match line.trim_start().strip_prefix("FAIL") {
            Some(_) => failed.push(component),
            None if kinds.iter().any(|kind| line.starts_with(kind)) => {
                component = line.split("  ").next().unwrap_or_default();
            }
            None => {}
        }
    }
    failed.dedup();
    let wrong = [
        "loss scale unplaced",
        "loss weighs",
        "optimizer forgets",
        "optimizer meddles",
        "schedule remembers",
        "callback forgets",
        "callback silent",
        "callback unchecked",
        "callback undeclared",
        "metric hoards",
    ];
    assert_eq!(failed, wrong, "{said}");
    for begun in ["callback sees", "loss seeing", "optimizer seeing"] {
        let of_it = said.split_once(&format!("{begun} ")).unwrap().1;
        let findings = of_it.lines().skip_while(|line| !line.contains("ok    "));
        let first = findings.map(str::trim).find(|line| line.contains("begins"));
        assert_eq!(first, Some("ok    begins with its run"), "{said}");
    }
    // Not `plugin check` on the hostile one: its tracker sleeps for an hour.
    let listed = works(&format!(
        "components --plugin {}",
        library("hostile_plugin").display()
    ));
    assert!(listed.contains("plugin hostile-plugin 0.1.0"), "{listed}");
    let help = works(&format!(
        "sft --help --plugin {}",
        library("muon").display()
    ));
    assert!(
        help.contains("ns_steps") && help.contains("Decay of the momentum"),
        "{help}"
    );
}

/// What a checkpoint was made with is compared with what is there when it is used.
#[test]
fn pins_and_missing_plugins_are_told() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("run");
    let muon = library("muon");
    works(&sft(&out, &muon, "--optimizer muon"));
    let checkpoint = out.join("checkpoint-2");
    let resume = format!(
        "--optimizer muon --resume_from_checkpoint {}",
        checkpoint.display()
    );
    works(&sft(&home.path().join("again"), &muon, &resume));
    let adapter = |run: &str| {
        fs::read(
            home.path()
                .join(run)
                .join("checkpoint-4/adapter_model.safetensors"),
        )
        .unwrap()
    };
    assert!(
        adapter("run") == adapter("again"),
        "a plugin's optimizer resumes exactly"
    );
    let said = works(&format!(
        "export --adapters {} --merge_lora true --output_dir {}",
        checkpoint.display(),
        home.path().join("merged").display()
    ));
    assert!(
        said.contains("made with plugin muon 0.1.0") && said.contains("not loaded"),
        "{said}"
    );

    let config = home.path().join("pin.toml");
    let pin = format!(
        "plugins = [{{ path = {:?}, sha256 = \"00ff\" }}]\n",
        muon.display().to_string()
    );
    fs::write(&config, pin).unwrap();
    let line = sft(&home.path().join("pin"), &muon, "");
    let line = line.replace(&format!("--plugin {} ", muon.display()), "");
    let line = line.replacen("sft", &format!("sft --config {}", config.display()), 1);
    fails(&line, &["the configuration pins 00ff", "It was not opened"]);
}
