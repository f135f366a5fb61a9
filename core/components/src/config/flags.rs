//! The table of all flags.

use super::flag::{Command, Command::*, Flag, ValueKind, ValueKind::*};

const S: &[Command] = &[Sft];
const B: &[Command] = &[Bench];
const SB: &[Command] = &[Sft, Bench];
const D: &[Command] = &[Data];
const SIB: &[Command] = &[Sft, Infer, Bench];
const SIEB: &[Command] = &[Sft, Infer, Export, Bench];
const I: &[Command] = &[Infer];
const E: &[Command] = &[Export];
const N: &[Command] = &[ModelNew];
const SI: &[Command] = &[Sft, Infer];
const SIE: &[Command] = &[Sft, Infer, Export];
const EN: &[Command] = &[Export, ModelNew];

const fn flag(
    group: &'static str,
    commands: &'static [Command],
    name: &'static str,
    kind: ValueKind,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        aliases: &[],
        kind,
        group,
        commands,
        help,
    }
}

impl Flag {
    const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
    /// Whether the flag is about data. The help of `apus data` shows these flags.
    pub(super) fn is_about_data(&self) -> bool {
        [PLUGINS, DATA, CHAT, SHOW].contains(&self.group)
            || matches!(self.name, "model" | "tokenizer")
    }

    /// Whether the flag changes how a row is prepared. Flags that only select rows do not count.
    pub fn shapes_rows(&self) -> bool {
        let others = [
            "dataset",
            "val_dataset",
            "split_dataset_ratio",
            "dataset_shuffle",
            "train_dataloader_shuffle",
            "dataloader_drop_last",
            "data_seed",
            "load_from_cache_file",
            "packing",
            "group_by_length",
        ];
        let of_run = self.belongs_to(Command::Sft) && [DATA, CHAT].contains(&self.group);
        of_run && !others.contains(&self.name)
    }

    /// Whether the flag changes the examples that a run trains on.
    pub fn shapes_data(&self) -> bool {
        self.belongs_to(Command::Sft)
            && ([DATA, CHAT].contains(&self.group) || matches!(self.name, "tokenizer"))
            && self.name != "load_from_cache_file"
    }

    /// Whether the flag changes what a run learns. A run that resumes from a checkpoint must have the same value.
    pub fn is_about_learning(&self) -> bool {
        let others = [
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "gradient_checkpointing",
            "gradient_checkpointing_skip_layers",
            "deterministic",
            "callbacks",
            "early_stop_interval",
            "resume_from_checkpoint",
            "resume_only_model",
            "resume_changes",
            "ignore_data_skip",
            "dry_run",
        ];
        let of_run = self.belongs_to(Command::Sft) && [TRAIN, OPTIM].contains(&self.group);
        of_run && !others.contains(&self.name)
    }
}

const MODEL: &str = "Model";
const PLUGINS: &str = "Plugins";
const DATA: &str = "Data";
const CHAT: &str = "Chat template";
const LORA: &str = "Adapter";
const TRAIN: &str = "Training";
const OPTIM: &str = "Optimizer and schedule";
const SAVE: &str = "Evaluation and saving";
const LOOK: &str = "Logging";
const GENERATE: &str = "Generation";
const OUTPUT: &str = "Output";
const SHOW: &str = "Looking";
const MEASURE: &str = "Measuring";

/// All flags, in the order of the help.
pub const FLAGS: &[Flag] = &[
    flag(MODEL, SIEB, "model", Text, "Model directory, an id such as openai/gpt-oss-20b, or synthetic:gpt-oss-20b for random weights; infer also takes an adapter folder").or(&["model_id_or_path"]),
    flag(MODEL, SIEB, "use_hf", Bool, "Look ids up on Hugging Face (as without it), or with false on ModelScope; hf:: or ms:: before an id goes over it"),
    flag(MODEL, SIE, "adapters", List, "Adapter folder to start from, to answer with, or to merge").or(&["adapter", "ckpt_dir"]),
    flag(MODEL, SI, "tokenizer", Text, "Directory or id with tokenizer.json, for a model that has none"),
    flag(MODEL, SI, "torch_dtype", Text, "Compute type: float32 on the CPU, bfloat16 on CUDA").or(&["dtype"]),
    flag(MODEL, SIB, "experts_dtype", Text, "How expert matrices are kept: mxfp4 (packed, if the model has them so) or bf16"),
    flag(MODEL, S, "offload_embedding", Text, "Keep the embedding in host memory: true, false, or auto (if the memory plan does not fit otherwise)"),
    flag(MODEL, SIB, "device", Text, "auto, cpu, cuda or cuda:N"),
    flag(PLUGINS, SIEB, "plugins", Plugins, "Plugin libraries whose components can be named; those in the folders of APUS_PLUGIN_PATH are loaded too").or(&["plugin", "external_plugins", "custom_register_path"]),
    flag(DATA, SI, "dataset", List, "Training data: json, jsonl, csv, txt or parquet files (also .gz, .zst), folders of them, patterns, or ids such as owner/name:subset; #N after one for N rows"),
    flag(DATA, SI, "val_dataset", List, "Evaluation data; for infer, the questions to answer"),
    flag(DATA, S, "interleave_prob", Floats, "Mix the datasets by chance: the probability of each"),
    flag(DATA, S, "stopping_strategy", Text, "Where mixing ends: first_exhausted, or all_exhausted"),
    flag(DATA, SI, "columns", JsonOrFile, "New names of columns: {\"text1\": \"query\"}, or a JSON file"),
    flag(DATA, SI, "disable_auto_column_mapping", Bool, "Take columns by their own names alone: query and response, not prompt and answer"),
    flag(DATA, S, "streaming", Bool, "Read the training data as training goes on, for data larger than memory; needs max_steps"),
    flag(DATA, S, "shuffle_buffer_size", Int, "Rows among which streaming shuffles"),
    flag(DATA, S, "split_dataset_ratio", Float, "Share of the training data set aside for evaluation"),
    flag(DATA, SI, "dataset_format", Component, "Format of the rows, if it is not to be recognised"),
    flag(DATA, S, "dataset_shuffle", Bool, "Shuffle rows before sampling and splitting"),
    flag(DATA, S, "train_dataloader_shuffle", Bool, "Take the training examples in a new order each epoch"),
    flag(DATA, S, "dataloader_drop_last", Bool, "Leave out the last micro-batch of an epoch where it is not full"),
    flag(DATA, S, "data_seed", Int, "Seed of sampling, splitting and the order of the data"),
    flag(DATA, SI, "strict", Bool, "Stop at the first row that cannot be used, instead of leaving it out, or of which something is not used"),
    flag(DATA, S, "keep_empty_answers", Bool, "Train rows with an answer without any text too, instead of leaving them out"),
    flag(DATA, S, "load_from_cache_file", Bool, "Keep prepared data under APUS_CACHE (or the platform's cache folder) and use it again for the same rows and settings"),
    flag(DATA, SI, "max_length", Int, "Longest example in tokens"),
    flag(DATA, S, "truncation_strategy", Text, "Examples that are too long: delete, left, right (keep the last or the first tokens), split (make several) or raise"),
    flag(DATA, S, "packing", Bool, "Pack examples into rows of max_length, each row one example of a micro-batch; attention stays inside each conversation"),
    flag(DATA, S, "group_by_length", Bool, "Take examples of similar length together"),
    flag(DATA, S, "loss_scale", Chain, "What is trained and how much: default, last_round, all, ignore_empty_think, ..., or a JSON file in ms-swift's format; chained with +"),
    flag(DATA, S, "enable_channel_loss", Bool, "Report the loss of each group of rows by itself, as loss_NAME and eval_loss_NAME; a row names its group in its column channel"),
    flag(CHAT, SI, "system", Text, "Instructions for every conversation that has none, or a text file with them, such as system.txt"),
    flag(CHAT, SI, "reasoning_effort", Text, "low, medium or high"),
    flag(CHAT, SI, "model_identity", Text, "First line of the system message"),
    flag(CHAT, SI, "current_date", Text, "Date in the system message, YYYY-MM-DD; today if not given"),
    flag(CHAT, SI, "template_backend", Text, "auto (the model's template if it has one; native for what gpt-oss' own has no place for), jinja, native (what gpt-oss' template writes) or harmony (what openai-harmony writes, for vLLM and other servers built on it)"),
    flag(CHAT, SI, "think_to_analysis", Bool, "Move <think>...</think> at the start of an answer to the analysis channel"),
    flag(CHAT, SI, "keep_thinking", Bool, "Keep the reasoning of earlier turns, which the model's template leaves out").or(&["preserve_thinking"]),
    flag(CHAT, S, "train_header", Text, "Header tokens that are trained: channel (what the model writes itself), full, or none"),
    flag(CHAT, S, "train_stop", Text, "What is trained where an earlier answer ends: return (the label is <|return|>), end or none"),
    flag(LORA, SB, "train_type", Text, "lora or full").or(&["tuner_type", "sft_type"]),
    flag(LORA, SB, "lora_rank", Int, "Rank"),
    flag(LORA, SB, "lora_alpha", Float, "Scale: the update is alpha / rank * B A"),
    flag(LORA, S, "lora_dropout", Float, "Probability of dropping an input of A"),
    flag(LORA, SB, "target_modules", List, "Linear layers to adapt: all-linear, names, or a pattern"),
    flag(LORA, S, "target_regex", Text, "Pattern for whole module paths, in place of target_modules"),
    flag(LORA, SB, "target_parameters", List, "Expert parameters to adapt, such as 7.mlp.experts.gate_up_proj"),
    flag(LORA, S, "modules_to_save", List, "Modules trained whole: names, all-embedding, all-norm"),
    flag(LORA, S, "use_rslora", Bool, "Scale by alpha / sqrt(rank)"),
    flag(LORA, S, "use_dora", Bool, "Learn magnitudes by themselves (DoRA)"),
    flag(LORA, S, "lorap_lr_ratio", Float, "Learning rate of B over that of A (LoRA+)"),
    flag(LORA, S, "init_weights", Text, "How A starts: true (kaiming uniform) or gaussian").or(&["init_lora_weights"]),
    flag(TRAIN, S, "num_train_epochs", Float, "Passes over the data"),
    flag(TRAIN, S, "max_steps", Int, "Optimizer steps, in place of epochs; -1 for none"),
    flag(TRAIN, S, "per_device_train_batch_size", Int, "Examples in a micro-batch"),
    flag(TRAIN, S, "per_device_eval_batch_size", Int, "Examples in a batch of an evaluation"),
    flag(TRAIN, S, "gradient_accumulation_steps", Int, "Micro-batches in a step; 16 examples in all if not given"),
    flag(TRAIN, SB, "gradient_checkpointing", Bool, "Keep only the inputs of layers and compute the rest again").or(&["activation_checkpointing"]),
    flag(TRAIN, SB, "gradient_checkpointing_skip_layers", Text, "Layers that keep everything all the same: a number, or auto"),
    flag(TRAIN, SB, "loss_type", Component, "The loss").or(&["loss"]),
    flag(TRAIN, S, "router_aux_loss_coef", Float, "Weight of the router's load-balancing loss"),
    flag(TRAIN, S, "neftune_noise_alpha", Float, "NEFTune: uniform noise up to alpha / sqrt(tokens * width) on the embeddings of a sequence while training"),
    flag(TRAIN, SB, "seed", Int, "Seed of adapters and dropout"),
    flag(TRAIN, S, "deterministic", Bool, "Repeat bit for bit on the same machine, or refuse to run").or(&["full_determinism"]),
    flag(TRAIN, S, "callbacks", Components, "Callbacks"),
    flag(TRAIN, S, "early_stop_interval", Int, "Stop after this many saves without a better metric"),
    flag(TRAIN, S, "resume_from_checkpoint", Text, "Checkpoint to go on from exactly, or true for the newest whole one in output_dir"),
    flag(TRAIN, S, "resume_only_model", Bool, "Take the weights of that checkpoint alone: data, optimizer and schedule start anew"),
    flag(TRAIN, S, "ignore_data_skip", Bool, "As resume_only_model always has it: start with the first example again"),
    flag(TRAIN, S, "resume_changes", List, "Flags whose values differ from the checkpoint's on purpose, such as learning_rate or num_train_epochs"),
    flag(TRAIN, S, "dry_run", Bool, "Show the configuration, a memory plan and one example, and stop"),
    flag(OPTIM, SB, "learning_rate", Float, "Learning rate; 1e-4 for lora, 1e-5 for full if not given"),
    flag(OPTIM, S, "optim", Text, "adamw_torch, adamw_torch_fused, sgd or lion: shorthand for optimizer"),
    flag(OPTIM, SB, "optimizer", Component, "The optimizer"),
    flag(OPTIM, S, "weight_decay", Float, "Weight decay"),
    flag(OPTIM, S, "adam_beta1", Float, "Decay of AdamW's first moment"),
    flag(OPTIM, S, "adam_beta2", Float, "Decay of AdamW's second moment"),
    flag(OPTIM, S, "adam_epsilon", Float, "AdamW's epsilon"),
    flag(OPTIM, SB, "max_grad_norm", Float, "Bound of the gradient norm; 0 does not clip"),
    flag(OPTIM, S, "lr_scheduler_type", Text, "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr, polynomial, inverse_sqrt, warmup_stable_decay, reduce_lr_on_plateau"),
    flag(OPTIM, S, "lr_scheduler_kwargs", Json, "Options of the schedule, as JSON"),
    flag(OPTIM, S, "lr_scheduler", Component, "The schedule with its options").or(&["lr_schedule"]),
    flag(OPTIM, S, "warmup_ratio", Float, "Share of steps over which the learning rate rises"),
    flag(OPTIM, S, "warmup_steps", Float, "Steps over which the learning rate rises; below 1 a share of all steps"),
    flag(SAVE, S, "eval_strategy", Text, "steps, epoch or no; as save_strategy if not given").or(&["evaluation_strategy"]),
    flag(SAVE, S, "eval_steps", Float, "Steps between evaluations, below 1 a share of all steps; as save_steps if not given"),
    flag(SAVE, S, "metrics", Components, "Evaluation metrics").or(&["eval_metric", "metric"]),
    flag(SAVE, S, "save_strategy", Text, "steps, epoch, best (after each evaluation that is the best so far) or no"),
    flag(SAVE, S, "save_steps", Float, "Steps between checkpoints; below 1 a share of all steps"),
    flag(SAVE, S, "save_total_limit", Int, "Checkpoints to keep; the best and the last always stay"),
    flag(SAVE, S, "save_only_model", Bool, "Leave the optimizer's state out of checkpoints"),
    flag(SAVE, S, "metric_for_best_model", Text, "loss, or a metric"),
    flag(SAVE, S, "greater_is_better", Bool, "Whether more of that metric is better; by its name if not given"),
    flag(SAVE, S, "load_best_model_at_end", Bool, "Go back to the best checkpoint at the end"),
    flag(LOOK, S, "logging_steps", Float, "Steps between log lines; below 1 a share of all steps"),
    flag(LOOK, S, "logging_first_step", Bool, "Log the first step too"),
    flag(LOOK, S, "report_to", List, "Where numbers go beside the terminal and logging.jsonl"),
    flag(LOOK, S, "trackers", Components, "Trackers with their options, beside report_to"),
    flag(LOOK, S, "tracker_timeout", Float, "Seconds that the end of a run waits for its trackers"),
    flag(LOOK, S, "run_name", Text, "Name of the run; its folder if not given"),
    flag(LOOK, S, "plot", Bool, "Draw images/*.png of every number at each save and at the end, and write report.html"),
    flag(LOOK, S, "tui", Bool, "Draw a live panel with the loss curve on the terminal, in place of the progress bar"),
    flag(LOOK, S, "sample_prompts", List, "Prompts to answer before training, at each evaluation and after training"),
    flag(LOOK, S, "swanlab_token", Text, "SwanLab: key of the account; better kept in SWANLAB_API_KEY or by apus swanlab login"),
    flag(LOOK, S, "swanlab_project", Text, "SwanLab: project; ms-swift if not given"),
    flag(LOOK, S, "swanlab_workspace", Text, "SwanLab: workspace; the account's own if not given"),
    flag(LOOK, S, "swanlab_exp_name", Text, "SwanLab: name of the experiment; the run's name if not given"),
    flag(LOOK, S, "swanlab_mode", Text, "SwanLab: cloud; offline or local for the run's file alone; disabled"),
    flag(LOOK, S, "swanlab_notification_method", Text, "SwanLab: who is told that the run is over: dingtalk, lark, wxwork, slack, discord or email"),
    flag(LOOK, S, "swanlab_webhook_url", Text, "SwanLab: address that the message is posted to"),
    flag(LOOK, S, "swanlab_secret", Text, "SwanLab: signs messages to dingtalk and lark; for email, the sender's password"),
    flag(LOOK, S, "swanlab_sender_email", Text, "SwanLab: address that the email comes from"),
    flag(LOOK, S, "swanlab_receiver_email", Text, "SwanLab: address that the email goes to"),
    flag(LOOK, S, "swanlab_smtp_server", Text, "SwanLab: server that sends the email"),
    flag(LOOK, S, "swanlab_smtp_port", Int, "SwanLab: its port; 465 for TLS from the start, others (587 if not given) for STARTTLS"),
    flag(LOOK, S, "swanlab_email_language", Text, "SwanLab: language of the message, zh or en"),
    flag(GENERATE, SI, "max_new_tokens", Int, "Most tokens in an answer"),
    flag(GENERATE, SI, "temperature", Float, "0 takes the most probable token"),
    flag(GENERATE, I, "top_p", Float, "Sample among the most probable tokens that make up this probability"),
    flag(GENERATE, I, "top_k", Int, "Sample among this many of the most probable tokens; 0 for all; as generation_config.json says if not given, else 50"),
    flag(GENERATE, I, "repetition_penalty", Float, "Divide the logits of tokens that the prompt or the answer holds already; 1 changes nothing; as generation_config.json says if not given"),
    flag(GENERATE, I, "seed", Int, "Seed of sampling; each answer draws numbers of its own"),
    flag(GENERATE, I, "stream", Bool, "Print an answer as it comes"),
    flag(GENERATE, I, "show_thinking", Bool, "Print the analysis channel too"),
    flag(GENERATE, I, "result_path", Text, "File for the answers, jsonl; what it holds already stays"),
    flag(GENERATE, I, "val_dataset_sample", Int, "Answer this many rows of val_dataset, the first ones"),
    flag(GENERATE, I, "input_ids", List, "Token ids whose logits go to dump_logits"),
    flag(GENERATE, I, "dump_logits", Text, "Write the logits of input_ids to this safetensors file and stop"),
    flag(OUTPUT, S, "output_dir", Text, "Folder for runs; each gets its own v{N}-{time} inside"),
    flag(OUTPUT, S, "add_version", Bool, "Make a folder of its own for the run"),
    flag(OUTPUT, EN, "output_dir", Text, "Folder to write").or(&["out"]),
    flag(OUTPUT, E, "merge_lora", Bool, "Merge the adapter into the model"),
    flag(OUTPUT, E, "quantize", Text, "mxfp4: pack BF16 experts"),
    flag(OUTPUT, E, "max_shard_size", Text, "Size of a file of weights, such as 5GB"),
    flag(OUTPUT, E, "exist_ok", Bool, "Replace the output folder if it is there"),
    flag(OUTPUT, N, "arch", Text, "gpt-oss-20b, gpt-oss-120b, or a config.json"),
    flag(OUTPUT, N, "format", Text, "Experts as mxfp4 or bf16"),
    flag(OUTPUT, N, "seed", Int, "Seed of the weights"),
    flag(OUTPUT, N, "tokenizer", Text, "Directory or id whose tokenizer files are copied along"),
    flag(SHOW, D, "samples", Int, "Examples to print, drawn with data_seed, and the longest one"),
    flag(SHOW, D, "html", Text, "Write a page with the table, lengths and examples to this file"),
    flag(SHOW, D, "out", Text, "Write every prepared example to this jsonl file, which can be trained as it is"),
    flag(MEASURE, B, "batch", Int, "Sequences in a step"),
    flag(MEASURE, B, "seq", Text, "Tokens in a sequence: a number, or a range such as 64:4096 from which lengths are drawn, short ones as often as long ones"),
    flag(MEASURE, B, "steps", Int, "Steps to time, of which the first two are reported apart"),
    flag(MEASURE, B, "trained_share", Float, "Share of tokens that are trained"),
    flag(MEASURE, B, "ops", Bool, "Time each operation alone, at the model's sizes, in place of training"),
    flag(MEASURE, B, "json", Text, "Write the figures to this file too"),
    flag(MEASURE, B, "against", Text, "Show the figures beside those that an earlier measurement wrote to this file with --json"),
];
