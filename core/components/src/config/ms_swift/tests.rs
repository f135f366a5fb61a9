use super::super::{ExportConfig, FLAGS, InferConfig, Resolved, SftConfig, from_arguments};
use super::*;
use std::collections::BTreeSet;

/// Arguments of ms-swift by command: facts, from its sources.
const ARGUMENTS: &str = include_str!("../../../../../tests/goldens/ms-swift/arguments.txt");

const COMMANDS: [(&str, Command); 5] = [
    ("sft", Command::Sft),
    ("infer", Command::Infer),
    // ms-swift's server takes what its `infer` does, and more.
    ("infer", Command::Deploy),
    ("deploy", Command::Deploy),
    ("export", Command::Export),
];

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn sft(line: &str) -> Resolved<SftConfig> {
    from_arguments(&words(line)).unwrap_or_else(|error| panic!("{line}: {error:#}"))
}

fn error(line: &str) -> String {
    match from_arguments::<SftConfig>(&words(line)) {
        Ok(_) => panic!("{line}: taken"),
        Err(error) => format!("{error:#}"),
    }
}

/// Names of flags, with their other spellings, that a command has.
fn own(command: Command) -> BTreeSet<&'static str> {
    FLAGS
        .iter()
        .filter(|flag| flag.belongs_to(command))
        .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
        .collect()
}

#[test]
fn every_argument_of_ms_swift_is_a_flag_or_answered() {
    for (name, command) in COMMANDS {
        let lines = ARGUMENTS.lines().filter_map(|line| line.strip_prefix(name));
        let names: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        let least = if name == "deploy" { 11 } else { 100 };
        assert!(names.len() > least, "{name}: {}", names.len());
        let own = own(command);
        let missing: Vec<&&str> = names
            .iter()
            .filter(|name| !own.contains(**name) && find(name, command).is_none())
            .collect();
        assert!(missing.is_empty(), "apus {name}: {missing:?}");
    }
}

/// Whether an answer is a command's own.
fn has_answer_of_its_own(command: Command, name: &str) -> bool {
    let mut all = ms_swift_arguments();
    all.any(|arguments| arguments.names.contains(&name) && arguments.commands.contains(&command))
}

#[test]
fn an_argument_has_one_answer() {
    for (name, command) in COMMANDS {
        let own = own(command);
        let mut seen = BTreeSet::new();
        for argument in ms_swift_arguments()
            .filter(|arguments| arguments.accepted_by(command))
            .flat_map(|arguments| arguments.names)
        {
            // `apus deploy` has flags where `apus infer` has answers.
            let inherited = !has_answer_of_its_own(command, argument);
            assert!(
                inherited || !own.contains(argument),
                "apus {name}: {argument} is a flag"
            );
            assert!(seen.insert(argument), "apus {name}: {argument} twice");
        }
    }
}

#[test]
fn what_changes_nothing_is_answered_in_a_line() {
    let line = "--dataloader_prefetch_factor 2 --dataloader-persistent-workers true --lazy_tokenize true \
        --load_data_args false --gradient_checkpointing_kwargs {\"use_reentrant\":false} --use_logits_to_keep true \
        --ddp_timeout 18000000 --ignore_args_error true --enable_thinking false --quantize_moe_experts true \
        --attn_impl flash_attention_2 --model_type gpt_oss --fp16 False --label_smoothing_factor 0.0 --zero_hpz_partition_size 2 \
        --rope_scaling None --bf16";
    let found = sft(line);
    assert_eq!(found.notes.len(), 16, "{:#?}", found.notes);
    assert!(
        found
            .notes
            .iter()
            .all(|note| note.contains(": nothing to do here: "))
    );
    let infer: Resolved<InferConfig> =
        from_arguments(&words("--infer_backend vllm --vllm_max_num_seqs 8")).unwrap();
    assert_eq!(infer.notes.len(), 2);
    let export: Resolved<ExportConfig> =
        from_arguments(&words("--to_peft_format true --push_to_hub false")).unwrap();
    assert_eq!(export.notes.len(), 2);
}

#[test]
fn what_would_change_something_is_an_error() {
    for (line, says) in [
        (
            "--label_smoothing_factor 0.1",
            "--label_smoothing_factor is 0.1: labels are not smoothed",
        ),
        ("--fp16", "--fp16 is true: weights"),
        ("--lora_bias all", "biases are not trained"),
        ("--template chatml", "gpt-oss has one template"),
        ("--model_type qwen3", "Apus trains gpt-oss alone"),
        ("--galore_quantization true", "there is no Q-GaLore"),
        ("--generation_num_beams 4", "an answer is sampled"),
        ("--load_data_args true", "data is named"),
        ("--freeze_parameters_ratio 0.5", "everything is trained"),
    ] {
        let said = error(line);
        assert!(said.contains(says), "{line}: {said}");
    }
    let named = sft("--model m --dataset d --model_name a b --model_author c");
    assert_eq!(named.config.model_name, ["a", "b"]);
    assert!(from_arguments::<InferConfig>(&words("--load_args false")).is_err());
    assert!(from_arguments::<ExportConfig>(&words("--quant_method gptq")).is_err());
}

/// What becomes of an argument.
enum Becomes {
    /// A flag, whose value then holds.
    Flag(fn(&InferConfig) -> bool),
    /// A line that has these words.
    Note(&'static str),
    /// An error that has these words.
    Refused(&'static str),
}

/// `GenerationArguments` and the own fields of `InferArguments` of ms-swift, and what of its `RequestConfig` has no argument there.
#[test]
fn every_argument_about_answers_counts_or_is_answered() {
    use Becomes::{Flag, Note, Refused};
    for (line, becomes) in [
        ("--max_new_tokens 7", Flag(|c| c.max_new_tokens == 7)),
        ("--temperature 0.3", Flag(|c| c.temperature == Some(0.3))),
        ("--top_k 5", Flag(|c| c.top_k == Some(5))),
        ("--top_p 0.5", Flag(|c| c.top_p == Some(0.5))),
        (
            "--repetition_penalty 1.1",
            Flag(|c| c.repetition_penalty == Some(1.1)),
        ),
        ("--stream true", Flag(|c| c.stream == Some(true))),
        ("--stop_words a b", Flag(|c| c.stop_words == ["a", "b"])),
        ("--logprobs true", Flag(|c| c.logprobs)),
        ("--top_logprobs 3", Flag(|c| c.top_logprobs == Some(3))),
        ("--num_beams 1", Note("so it is with 1")),
        ("--num_beams 4", Refused("--n N gives N of them")),
        (
            "--structured_outputs_regex a+",
            Refused("bound to a pattern"),
        ),
        (
            "--infer_backend vllm",
            Note("answers come from Apus itself"),
        ),
        (
            "--result_path a.jsonl",
            Flag(|c| c.result_path.as_deref() == Some("a.jsonl")),
        ),
        ("--write_batch_size -1", Flag(|c| c.write_batch_size == -1)),
        ("--max_batch_size 8", Flag(|c| c.max_batch_size == 8)),
        ("--max_batch_size 0", Refused("max_batch_size is 0")),
        (
            "--val_dataset_sample 9",
            Flag(|c| c.val_dataset_sample == Some(9)),
        ),
        ("--reranker_use_activation true", Note("no reranker")),
        (
            "--enable_thinking false",
            Note("--reasoning_effort low is the least"),
        ),
        ("--response_prefix a", Refused("begins with its channel")),
        ("--seed 3", Flag(|c| c.seed == 3)),
        ("--n 2", Flag(|c| c.n == 2)),
        ("--num_return_sequences 2", Flag(|c| c.n == 2)),
        ("--n 0", Refused("n is 0")),
        ("--best_of 2", Refused("--n N writes all N")),
        ("--length_penalty 0.5", Refused("only beams have it")),
        ("--min_p 0.1", Flag(|c| c.min_p == Some(0.1))),
        ("--min_p 2", Refused("min_p is 2")),
        (
            "--presence_penalty 0.5",
            Flag(|c| c.presence_penalty == 0.5),
        ),
        ("--frequency_penalty -3", Refused("frequency_penalty is -3")),
    ] {
        let found = from_arguments::<InferConfig>(&words(line));
        let has = |said: &str, part: &str| assert!(said.contains(part), "{line}: {said}");
        match (becomes, found) {
            (Flag(holds), Ok(found)) => {
                assert!(
                    found.notes.is_empty() && holds(&found.config),
                    "{line}: {:?}",
                    found.notes
                );
            }
            (Note(part), Ok(found)) => has(&found.notes.concat(), part),
            (Refused(part), Err(error)) => has(&format!("{error:#}"), part),
            (Refused(_), Ok(_)) => panic!("{line} was taken"),
            (_, Err(error)) => panic!("{line}: {error:#}"),
        }
    }
}

#[test]
fn a_file_is_answered_as_the_command_line_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    std::fs::write(
        &file,
        "model = 'm'\ndeepspeed_autotp_size = 2\nddp-backend = 'nccl'\nlabel_smoothing_factor = 0.0\n",
    )
    .unwrap();
    let line = format!("--config {}", file.display());
    assert_eq!(sft(&line).notes.len(), 3);
    std::fs::write(&file, "model = 'm'\nlabel_smoothing_factor = 0.1\n").unwrap();
    let said = error(&line);
    assert!(
        said.contains("run.toml, line 2, key label_smoothing_factor is 0.1: labels"),
        "{said}"
    );
}

#[test]
fn help_shows_flags_alone() {
    let help = super::super::help(Command::Sft);
    assert!(help.contains("--lora_rank") && !help.contains("--ddp_backend"));
}

/// The tutorial's recipe with transformers, its arguments by their names on the command line.
#[test]
fn the_tutorials_other_recipe() {
    let found = sft(
        "--model openai/gpt-oss-20b --dataset HuggingFaceH4/Multilingual-Thinking --attn_impl eager --torch_dtype bfloat16 \
         --use_cache false --device_map auto --lora_rank 8 --lora_alpha 16 --target_modules all-linear \
         --target_parameters 7.mlp.experts.gate_up_proj 7.mlp.experts.down_proj --max_length 4096 \
         --output_dir gpt-oss-20b-multilingual-reasoner --per_device_train_batch_size 4 \
         --gradient_accumulation_steps 4 --num_train_epochs 1.0 --learning_rate 2e-4 \
         --lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {\"min_lr_rate\":0.1} --warmup_ratio 0.03 \
         --logging_steps 1 --save_steps 200 --save_total_limit 2 --bf16 True --gradient_checkpointing True \
         --report_to none",
    );
    found.config.check(&|flag| found.given(flag)).unwrap();
    assert_eq!(found.config.lr_scheduler_kwargs["min_lr_rate"], 0.1);
    assert_eq!(found.notes.len(), 4, "{:#?}", found.notes);
}

#[test]
fn an_answer_shows_no_secret() {
    let secrets = ms_swift_arguments()
        .flat_map(|arguments| arguments.names.iter().map(move |name| (*name, arguments)))
        .filter(|(name, _)| is_secret(name));
    let mut count = 0;
    for (name, arguments) in secrets {
        let said = arguments.answer(name, name, "hunter2");
        let said = said.unwrap_or_else(|error| error.to_string());
        assert!(!said.contains("hunter2"), "{said}");
        count += 1;
    }
    assert!(count > 3, "{count}");
}
