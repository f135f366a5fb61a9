use super::super::{ExportConfig, InferConfig, SftConfig};
use super::super::{StepsOrShare, TrainType, values};
use super::*;
use apus_sdk::Kind;
use serde_json::json;
use std::collections::BTreeSet;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn sft(line: &str) -> Resolved<SftConfig> {
    from_arguments(&words(line)).unwrap()
}

fn error(line: &str) -> String {
    format!(
        "{:#}",
        from_arguments::<SftConfig>(&words(line)).unwrap_err()
    )
}

#[test]
fn every_field_has_a_flag_and_every_flag_a_field() {
    fn compare<T: Config>() {
        let Value::Object(fields) = serde_json::to_value(T::default()).unwrap() else {
            unreachable!()
        };
        let fields: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        // `apus data` has the values of a run as they are; of a run, those of declared flags are kept apart.
        let has_field = |flag: &&Flag| T::COMMAND.takes_a_run() || flag.declared_by.is_none();
        let flags: BTreeSet<&str> = FLAGS
            .iter()
            .filter(|flag| flag.accepted_by(T::COMMAND))
            .filter(has_field)
            .map(|flag| flag.name)
            .collect();
        assert_eq!(fields, flags);
    }
    compare::<SftConfig>();
    compare::<InferConfig>();
    compare::<super::super::DeployConfig>();
    compare::<ExportConfig>();
    compare::<super::super::ModelNewConfig>();
    compare::<super::super::BenchConfig>();
    compare::<super::super::DataConfig>();
    compare::<super::super::EvalConfig>();
}

#[test]
fn the_tutorials_commands() {
    let found = sft(
        "--deepspeed zero3 --model /path/to/gpt-oss-20b --dataset /path/to/train.json --train_type lora \
         --torch_dtype bfloat16 --num_train_epochs 35 --per_device_train_batch_size 1 \
         --per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 \
         --target_modules all-linear --gradient_accumulation_steps 16 --eval_steps 50 --save_steps 50 \
         --save_total_limit 2 --logging_steps 5 --max_length 8192 --output_dir output --warmup_ratio 0.05 \
         --dataloader_num_workers 4 --use_liger_kernel true --load_from_cache_file false \
         --loss_scale ignore_empty_think --save_strategy epoch --model_author gxb \
         --model_name gxb-gpt-oss-20b-agent-distill --report_to swanlab --swanlab_project swift-robot",
    );
    let c = &found.config;
    assert_eq!(c.num_train_epochs, 35.0);
    assert_eq!(
        (c.base_lr(), c.accumulation(), c.max_length),
        (1e-4, 16, Some(8192))
    );
    assert_eq!(c.report_to, ["swanlab"]);
    assert_eq!(values(c)["swanlab_project"], "swift-robot");
    assert_eq!(c.deepspeed, "zero3");
    assert_eq!(found.notes.len(), 2, "{:#?}", found.notes);
    c.check(&|flag| found.given(flag)).unwrap();

    let line = "--adapters v0-20250811-150539/checkpoint-551 --stream true --temperature 0 --max_new_tokens 2048";
    let infer: Resolved<InferConfig> = from_arguments(&words(line)).unwrap();
    assert_eq!(
        (infer.config.temperature, infer.config.stream),
        (Some(0.0), Some(true))
    );
    let line = "--adapters v0-20250811-150539/checkpoint-551 --merge_lora true";
    let export: Resolved<ExportConfig> = from_arguments(&words(line)).unwrap();
    assert!(export.config.merge_lora);
}

#[test]
fn both_spellings_dashes_and_equals() {
    let found = sft("--tuner-type=full --eval-steps 7 --max_steps -1 --use_dora");
    assert_eq!(found.config.train_type, TrainType::Full);
    assert_eq!(found.config.eval_steps, Some(StepsOrShare::Steps(7)));
    assert!(found.config.use_dora);
}

#[test]
fn mistakes_are_named() {
    assert!(
        error("--lora_rnk 8").contains("'--lora_rank'"),
        "{}",
        error("--lora_rnk 8")
    );
    assert!(error("--lora_rank eight").contains("expected a whole number, found \"eight\""));
    assert!(error("--use_dora maybe").contains("expected true or false"));
    assert!(error("a.toml b.toml").contains("unexpected argument"));
    assert!(error("--lora_rank 8 --lora_rank.x 8").contains("takes no options"));
    assert!(error("--optimizer.x 8").contains("give --optimizer NAME before"));
    assert!(error("--callbacks a b --callbacks.x 8").contains("which of a, b?"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    std::fs::write(&file, "model = \"m\"\nlearning_rat = 1e-4\n").unwrap();
    let text = error(&format!("--config {}", file.display()));
    assert!(
        text.contains("line 2") && text.contains("did you mean learning_rate?"),
        "{text}"
    );
    std::fs::write(&file, "lora_rank = \"eight\"\n").unwrap();
    let text = error(&format!("--config {}", file.display()));
    assert!(
        text.contains("line 1, key lora_rank: expected a whole number"),
        "{text}"
    );
    std::fs::write(&file, "lora_rank = \n").unwrap();
    assert!(error(&format!("--config {}", file.display())).contains("line 1"));
    let both = format!("{0} --config {0}", file.display());
    assert!(error(&both).contains("2 configuration files are given"));
}

#[test]
fn a_value_that_does_not_fit_names_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    for (text, says) in [
        (
            "seed = -4\n",
            "line 1, key seed: expected a whole number of 0 or more, found -4",
        ),
        (
            "lora_rank = -4\n",
            "line 1, key lora_rank: lora_rank is -4, expected",
        ),
        (
            "model = 'm'\nplugins = [{ pth = 'x' }]\n",
            "line 2, key plugins: expected a list of paths",
        ),
        (
            "callbacks = ['a', 5]\n",
            "line 1, key callbacks: expected a list of names or tables with name and options, found 5",
        ),
        (
            "target_modules = ['a', 5]\n",
            "line 1, key target_modules: expected a list of texts, found 5",
        ),
        (
            "[optimizer]\nbeta1 = 0.9\n",
            "line 1, key optimizer: expected a name, or a table",
        ),
        (
            "swanlab_smtp_port = 70000\n",
            "line 1, key swanlab_smtp_port: swanlab_smtp_port is 70000, expected",
        ),
        (
            "lr_scheduler_kwargs = 3\n",
            "line 1, key lr_scheduler_kwargs: expected a table of options, found 3",
        ),
        (
            "eval_metric = 'a'\nmetrics = 'b'\n",
            "line 2, key metrics: the same flag as",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = error(&format!("--config {}", file.display()));
        assert!(
            said.contains("a.toml, ") && said.contains(says),
            "{text}: {said}"
        );
    }
    for (line, says) in [
        (
            "--data_seed -4",
            "--data_seed: expected a whole number of 0 or more, found -4",
        ),
        ("--lora_rank -4", "lora_rank is -4, expected"),
        (
            "--learning_rate NaN",
            "--learning_rate: expected a finite number",
        ),
        (
            "--interleave_prob 0.5 inf",
            "--interleave_prob: expected a finite number",
        ),
        (
            "--lr_scheduler_kwargs [1]",
            "--lr_scheduler_kwargs: expected a JSON object",
        ),
        (
            "--swanlab_smtp_port 70000",
            "swanlab_smtp_port is 70000, expected",
        ),
    ] {
        let said = error(line);
        assert!(said.contains(says), "{line}: {said}");
    }
    let data = from_arguments::<super::super::DataConfig>(&words("a.jsonl --model m --seed -4"));
    let said = format!("{:#}", data.unwrap().config.sft().unwrap_err());
    assert!(said.contains("seed: expected a whole number"), "{said}");
}

#[test]
fn warm_up_is_steps_or_a_share() {
    let warmup = |line: &str| sft(line).config.warmup();
    assert_eq!(warmup(""), StepsOrShare::Share(0.0));
    assert_eq!(warmup("--warmup_steps 20"), StepsOrShare::Steps(20));
    assert_eq!(warmup("--warmup_steps 1"), StepsOrShare::Steps(1));
    assert_eq!(warmup("--warmup_steps 0.05"), StepsOrShare::Share(0.05));
    assert_eq!(
        warmup("--warmup_steps 0 --warmup_ratio 0.1"),
        StepsOrShare::Share(0.1)
    );
}

#[test]
fn intervals_are_steps_or_shares() {
    let found = sft("--save_steps 0.5 --logging_steps 10 --eval_steps 0.25").config;
    assert_eq!(
        (found.save_steps, found.logging_steps, found.eval_steps()),
        (
            StepsOrShare::Share(0.5),
            StepsOrShare::Steps(10),
            StepsOrShare::Share(0.25)
        )
    );
    assert_eq!(
        sft("--save_steps 0.5").config.eval_steps(),
        StepsOrShare::Share(0.5)
    );
    for flag in ["save_steps", "logging_steps", "eval_steps", "warmup_steps"] {
        let said = error(&format!("--{flag} 1.5"));
        assert!(
            said.contains(&format!("--{flag}: expected a whole number of steps")),
            "{said}"
        );
    }
    // As transformers asks for it.
    let check = |line: &str| {
        let line =
            format!("--model m --dataset d --val_dataset v --load_best_model_at_end true {line}");
        sft(&line)
            .config
            .check(&|_| false)
            .map_err(|error| error.to_string())
    };
    for good in [
        "--save_steps 0.3 --eval_steps 0.1",
        "--save_steps 0.5",
        "--save_steps 6 --eval_steps 3",
    ] {
        check(good).unwrap();
    }
    for bad in [
        "--save_steps 0.25 --eval_steps 0.1",
        "--save_steps 0.5 --eval_steps 1",
        "--save_steps 100 --eval_steps 0.1",
    ] {
        assert!(
            check(bad).unwrap_err().contains("to be a multiple of"),
            "{bad}"
        );
    }
}

#[test]
fn folders_to_write_are_absolute() {
    let here = std::env::current_dir().unwrap();
    let folder = |line: &str| sft(line).config.output_dir;
    assert_eq!(Path::new(&folder("")), here.join("output"));
    assert_eq!(Path::new(&folder("--output_dir a/b")), here.join("a/b"));
    assert_eq!(folder("--output_dir /a"), "/a");
    assert!(!folder("--output_dir ~/a").contains('~'));
    let export: Resolved<ExportConfig> = from_arguments(&words("--output_dir x")).unwrap();
    assert_eq!(
        Path::new(&export.config.output_dir.unwrap()),
        here.join("x")
    );
}

/// As ms-swift's `TemplateArguments` reads them.
#[test]
fn instructions_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("system.txt");
    std::fs::write(&file, "Be\nkind.\n").unwrap();
    let line = format!("--model m --system {}", file.display());
    let read = "Be\nkind.\n";
    assert_eq!(sft(&line).config.system.as_deref(), Some(read));
    let infer: Resolved<InferConfig> = from_arguments(&words(&line)).unwrap();
    assert_eq!(infer.config.system.as_deref(), Some(read));
    let line = format!("{line} --dataset d");
    let data = from_arguments::<super::super::DataConfig>(&words(&line)).unwrap();
    let data = data.config.sft().unwrap();
    assert_eq!(data.system.as_deref(), Some(read));
    assert_eq!(
        sft("--system Be\\nkind.").config.system.as_deref(),
        Some("Be\nkind.")
    );
    let said = error("--system nowhere.txt");
    assert!(said.contains("system is nowhere.txt"), "{said}");
}

#[test]
fn contradictions_are_named() {
    apus_plugins::link();
    let check = |line: &str| {
        let found = sft(&format!("--model m --dataset d {line}"));
        let given = |flag: &str| found.given(flag);
        found
            .config
            .check(&given)
            .and_then(|()| {
                let options = |name: &str| crate::registry::options(Kind::Optimizer, name);
                let origin = |flag: &str| found.origin(flag);
                found.config.optimizer_spec(&origin, &options).map(drop)
            })
            .unwrap_err()
            .to_string()
    };
    assert!(check("--warmup_ratio 0.1 --warmup_steps 5").contains("warmup_steps"));
    assert!(check("--optimizer adamw --optim sgd").contains("optim"));
    assert!(
        check("--optimizer adamw --optimizer.beta2 0.9 --adam_beta2 0.9")
            .contains("optimizer.beta2")
    );
    assert!(
        check("--use_dora true --target_parameters 1.mlp.experts.down_proj")
            .contains("target_parameters")
    );
    assert!(check("--optim apollo_adamw").contains("adafactor"));
    assert!(
        check("--use_galore true --optim adafactor").contains("leave use_galore or --optim out")
    );
    assert!(check("--use_galore true --optimizer lion").contains("the optimizer lion is given"));
    assert!(
        check("--val_dataset v --load_best_model_at_end true --save_steps 5 --eval_steps 2")
            .contains("multiple")
    );
}

#[test]
fn a_flag_chooses_an_optimizer_and_others_are_its_options() {
    apus_plugins::link();
    let made = |line: &str| {
        let found = sft(&format!("--model m --dataset d {line}"));
        let options = |name: &str| crate::registry::options(Kind::Optimizer, name);
        let origin = |flag: &str| found.origin(flag);
        found.config.optimizer_spec(&origin, &options).unwrap()
    };
    let flags = "--galore_rank 4 --galore_target_modules q_proj experts --galore_proj_type full";
    for chosen in [
        "--use_galore true",
        "--optim galore",
        "--use_galore true --optim adamw_torch",
    ] {
        let (spec, lines) = made(&format!("{chosen} {flags} --adam_beta2 0.9"));
        assert_eq!((spec.name.as_str(), lines.len()), ("galore", 0), "{chosen}");
        for (option, value) in [
            ("rank", json!(4)),
            ("target_modules", json!(["q_proj", "experts"])),
            ("proj_type", json!("full")),
            ("beta2", json!(0.9)),
        ] {
            assert_eq!(spec.options[option], value, "{chosen}: {option}");
        }
    }
    let (spec, _) =
        made("--optimizer galore --optimizer.rank 8 --galore_rank 4 --galore_scale 0.25");
    assert_eq!(spec.options["rank"], 8);
    assert_eq!(spec.options["scale"], 0.25);
    let (spec, lines) = made(&format!("--use_galore false {flags}"));
    assert_eq!(spec.name, "adamw");
    assert!(!spec.options.contains_key("rank") && lines[0].contains("about the optimizer galore"));
}
