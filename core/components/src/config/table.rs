//! The table of all flags, in the order of the help. What a row is made of, `declare` says.

use super::bounds::{ANY, COUNT, SHARE, above, between, from, share_above};
use super::choices::{
    EvalStrategy, ExpertsForm, GgufType, InitWeights, Offload, Quantize, SaveStrategy, ShardBase,
    SkippedLayers, StoppingStrategy, TorchDtype, TrainHeader, TrainStop, Truncation,
};
use super::declare::{config, flags, given_or, type_given_or};
use super::defaults::{LOSS, LOSS_SCALE, LR_SCHEDULER, METRICS, OPTIM};
use super::flag::{AS_SFT, Change, Command, Flag, Group, Topic, Use};
use super::train_type::TrainType;
use super::value::{FlagValue, ScaleChain};
use super::values;
use super::{DatasetSpec, GenerationLoads, Lengths, StepsOrShare};
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use apus_base::limits::MAX_RANK;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

flags! {
    Model {
        /// Model directory, an id such as openai/gpt-oss-20b, or synthetic:gpt-oss-20b for random weights; infer also takes an adapter folder
        model | model_id_or_path: String = String::new(), about Data
            => sft "same: a directory or an id; also `synthetic:gpt-oss-20b`",
               infer(Option<String> = None) "same: a directory or an id; also `synthetic:gpt-oss-20b`, or the folder of an adapter",
               deploy(Option<String> = None) "same: a directory or an id; also `synthetic:gpt-oss-20b`, or the folder of an adapter",
               export(Option<String> = None) "same: the base of an adapter that does not name it, or is not where it says; with `quantize` or `experts_dtype`, whose experts are converted",
               bench(String = "synthetic:gpt-oss-20b".to_owned());
        /// Look ids up on Hugging Face (as without it), or with false on ModelScope; hf:: or ms:: before an id goes over it
        use_hf: Option<bool> = None
            => sft "different default: Hugging Face, where ms-swift asks ModelScope",
               infer "different default: Hugging Face, where ms-swift asks ModelScope",
               deploy "different default: Hugging Face, where ms-swift asks ModelScope",
               export "different default: Hugging Face, where ms-swift asks ModelScope",
               bench;
        /// Adapter folder to start from, to answer with, or to merge
        adapters | adapter | ckpt_dir: Vec<String> = Vec::new()
            => sft "same; one folder, no id",
               infer "folders, `NAME=FOLDER` or called by their last part, where ms-swift takes ids too; at the terminal `/adapter NAME` chooses among them, rows are answered by one",
               deploy "same: `NAME=FOLDER` each, and a request names one by `model`; without `NAME=` one folder, which is part of the model",
               export "one folder, where ms-swift takes ids too";
        /// Directory or id with tokenizer.json, for a model that has none
        tokenizer: Option<String> = None, changes Examples, about Data
            => sft "only in Apus", infer "only in Apus; as in the run that made the weights",
               deploy "only in Apus; as in the run that made the weights";
        /// Compute type: float32 on the CPU, bfloat16 on CUDA
        torch_dtype | dtype: Option<TorchDtype> = None
            => sft "different default: the device decides, not config.json: float32 on the CPU, bfloat16 on CUDA; another type is an error",
               infer "different default: the device decides, not config.json: float32 on the CPU, bfloat16 on CUDA; another type is an error",
               deploy "different default: the device decides, not config.json: float32 on the CPU, bfloat16 on CUDA; another type is an error";
        /// How expert matrices are kept: mxfp4 (packed, if the model has them so) or bf16
        experts_dtype: ExpertsForm = ExpertsForm::Mxfp4
            => sft "only in Apus", infer "only in Apus",
               deploy "only in Apus",
               export(Option<ExpertsForm> = None) "only in Apus: the form of all experts that are written; without it those that an adapter touches are in BF16, the others as they are",
               bench;
        /// Keep the embedding in host memory: true, false, or auto (if the memory plan does not fit otherwise)
        offload_embedding: Offload = Offload::Auto
            => sft "only in Apus";
        /// auto, cpu, cuda or cuda:N
        device: String = "auto".to_owned()
            => sft "only in Apus; `CUDA_VISIBLE_DEVICES` works as ever",
               infer "only in Apus; `CUDA_VISIBLE_DEVICES` works as ever",
               deploy "only in Apus; `CUDA_VISIBLE_DEVICES` works as ever",
               bench;
    }
    Plugins {
        /// Plugin libraries, names of installed plugins, or `cmd:` and the command of a program, whose components can be named; libraries in the folders of APUS_PLUGIN_PATH are loaded too
        plugins | plugin | external_plugins | custom_register_path: Vec<PluginSpec> = Vec::new()
            => sft "Plugin libraries, names of installed plugins, or `cmd:` and the command of a program, whose components can be named; Python files are programs (`cmd:./file.py`), which the error about one says; libraries in the folders of APUS_PLUGIN_PATH are loaded too",
               infer "Plugin libraries, names of installed plugins, or `cmd:` and the command of a program, whose components can be named; Python files are programs (`cmd:./file.py`), which the error about one says; libraries in the folders of APUS_PLUGIN_PATH are loaded too",
               deploy "Plugin libraries, names of installed plugins, or `cmd:` and the command of a program, whose components can be named; Python files are programs (`cmd:./file.py`), which the error about one says; libraries in the folders of APUS_PLUGIN_PATH are loaded too",
               export "Plugin libraries, names of installed plugins, or `cmd:` and the command of a program, whose components can be named; Python files are programs (`cmd:./file.py`), which the error about one says; libraries in the folders of APUS_PLUGIN_PATH are loaded too",
               bench;
    }
    Data {
        /// Training data: json, jsonl, csv, txt or parquet files (also .gz, .zst), folders of them, patterns, or ids such as owner/name:subset; #N after one for N rows, then ?format=NAME&OPTION=VALUE for a format of its own
        dataset: Vec<DatasetSpec> = Vec::new(), changes Examples
            => sft "same; json, jsonl, csv, txt (also .gz, .zst) and parquet files, folders, patterns such as `data/*.jsonl`, which ms-swift has not, or ids; `#N` after one for N rows, and `?format=NAME&OPTION=VALUE` after that for a format of its own, which ms-swift has not",
               infer "different: its rows are answered if there is no `val_dataset`. ms-swift answers the part that `split_dataset_ratio` takes of it, and without that talks on the terminal";
        /// Evaluation data; for infer, the questions to answer
        val_dataset: Vec<DatasetSpec> = Vec::new(), changes Examples
            => sft "same", infer "same; `#N` takes the first N rows";
        /// Name of the model in datasets that have a place for it: in Chinese and in English, or one for both
        model_name: Vec<String> = Vec::new(), changes Examples
            => sft "same: fills in `{{NAME}}` of datasets of self-cognition";
        /// Author of the model in datasets that have a place for it: in Chinese and in English, or one for both
        model_author: Vec<String> = Vec::new(), changes Examples
            => sft "same: fills in `{{AUTHOR}}` of datasets of self-cognition";
        /// Mix the datasets by chance: the probability of each
        interleave_prob: Vec<f64> = Vec::new(), changes Rows, bounds between(0.0, 1.0)
            => sft "same, for `dataset` alone. What `split_dataset_ratio` takes off is evaluated whole; ms-swift mixes that too and so leaves rows of it out";
        /// Where mixing ends: first_exhausted, or all_exhausted
        stopping_strategy: StoppingStrategy = StoppingStrategy::FirstExhausted, changes Rows
            => sft "same";
        /// New names of columns: {"text1": "query"}, or a JSON file
        columns: Value = Value::Null, changes Rows, about Questions
            => sft "same; that several columns would get one name, or that no row has a column, is said", infer "same";
        /// Take columns by their own names alone: query and response, not prompt and answer
        disable_auto_column_mapping: bool = false, changes Rows, about Questions
            => sft "same: `system`, `query`, `response` and `messages` count by these names alone. `conversations` is the own column of the format sharegpt and stays; ms-swift finds nothing in it then",
               infer "same: `system`, `query`, `response` and `messages` count by these names alone. `conversations` is the own column of the format sharegpt and stays; ms-swift finds nothing in it then";
        /// Read the training data as training goes on, for data larger than memory; needs max_steps
        streaming: bool = false, changes Rows
            => sft r#"same; see "Streaming" above"#;
        /// Rows among which streaming shuffles
        shuffle_buffer_size: usize = 1000, changes Rows, bounds between(0.0, (1u64 << 32) as f64)
            => sft "same";
        /// Share of the training data set aside for evaluation
        split_dataset_ratio: f64 = 0.0, changes Examples, bounds SHARE
            => sft "same";
        /// Format of the rows, if it is not to be recognised
        dataset_format: Option<Spec> = None, changes Rows, about Questions
            => sft "only in Apus; without it, rows are recognised by their columns as in ms-swift",
               infer "only in Apus; without it, rows are recognised by their columns as in ms-swift";
        /// Shuffle rows before sampling and splitting
        dataset_shuffle: bool = true, changes Examples
            => sft "same";
        /// Take the training examples in a new order each epoch
        train_dataloader_shuffle: bool = true, changes Examples, over sampler
            => sft "same";
        /// The sampler: which examples an epoch trains, in which order and how often; without it random, or as train_dataloader_shuffle and group_by_length say
        sampler: Option<Spec> = None, changes Examples, over group_by_length | train_dataloader_shuffle
            => sft "only in Apus: a component, `apus components sampler` lists what there is";
        /// Leave out the last micro-batch of an epoch where it is not full
        dataloader_drop_last: bool = false, changes Examples
            => sft r#"same for training; see "Evaluation" above. A stream has no last micro-batch"#;
        /// Seed of sampling, splitting and the order of the data
        data_seed: u64 = 42, changes Examples, bounds ANY
            => sft "same";
        /// Stop at the first row that cannot be used, instead of leaving it out, or of which something is not used
        strict: bool = false, changes Rows, about Questions
            => sft "same, and what is not used of a row is an error",
               infer "stop at the first row that cannot be answered. Without it such a row (ms-swift leaves it out) has `response` null and the reason as `error` in its line, the others are answered, and the exit code is 1";
        /// Train rows with an answer without any text too, instead of leaving them out
        keep_empty_answers: bool = false, changes Rows
            => sft "only in Apus; ms-swift trains an answer without any text";
        /// Keep prepared data under APUS_CACHE (or the platform's cache folder) and use it again for the same rows and settings
        load_from_cache_file: bool = false
            => sft r#"same default as since ms-swift 3.9; the key is the content, not a path: see "Data, looked at""#;
        /// Longest example in tokens
        max_length: Option<usize> = None, changes Rows, bounds COUNT
            => sft "same",
               infer "same: a longer question is not answered; without it, as many tokens as the model has positions",
               deploy "the longest prompt: a longer one is refused; without it, as many tokens as the model has positions";
        /// Examples that are too long: delete, left, right (keep the last or the first tokens), split (make several) or raise
        truncation_strategy: Truncation = Truncation::Delete, changes Rows
            => sft "same for `delete`, `left`, `right`; `split` works for every sample, not for pretraining only, and says how many parts it keeps and what of them is not trained; `raise` is an error";
        /// Pack examples into rows of max_length, each row one example of a micro-batch; attention stays inside each conversation
        packing: bool = false, changes Examples
            => sft "same meaning, and allowed for gpt-oss: attention stays inside each conversation; best-fit decreasing over the whole set; needs `max_length`";
        /// Take examples of similar length together
        group_by_length: bool = false, changes Examples, over sampler
            => sft "same: the sampler `group_by_length`, as transformers' LengthGroupedSampler";
        /// What is trained and how much: default, last_round, all, ignore_empty_think, ..., or a JSON file in ms-swift's format; chained with +
        loss_scale: ScaleChain = ScaleChain::of(LOSS_SCALE), changes Rows
            => sft r#"same names; see "Loss scales" above"#;
        /// Report the loss of each group of rows by itself, as loss_NAME and eval_loss_NAME; a row names its group in its column channel
        enable_channel_loss: bool = false, changes Rows
            => sft r#"same; see "Loss by channel" above"#;
    }
    Chat {
        /// Instructions for every conversation that has none, or a text file with them, such as system.txt
        system: Option<String> = None, changes Rows
            => sft r#"different: it is honoured (ms-swift ignores it for gpt-oss); also a file, `x.txt`, and `\n` for a new line, as there"#,
               infer "different: it is honoured (ms-swift ignores it for gpt-oss); as in the run that made the weights; also a file, `x.txt`",
               deploy r#"different: it is honoured (ms-swift ignores it for gpt-oss) where a request has no instructions of its own; as in the run that made the weights; also a file, `x.txt`"#;
        /// low, medium or high
        reasoning_effort: Option<String> = None, changes Rows
            => sft "only in Apus", infer "only in Apus; as in the run that made the weights",
               deploy "only in Apus; as in the run that made the weights; a request may name its own";
        /// First line of the system message
        model_identity: Option<String> = None, changes Rows
            => sft "only in Apus", infer "only in Apus; as in the run that made the weights",
               deploy "only in Apus; as in the run that made the weights";
        /// Date in the system message, YYYY-MM-DD; today if not given
        current_date: Option<String> = None, changes Rows
            => sft "only in Apus; today if not given, as in ms-swift",
               infer "only in Apus; as in the run that made the weights, where it was given, else today, as in ms-swift",
               deploy "only in Apus; without it each request has the date of its day";
        /// auto (the model's template if it has one; native for what gpt-oss' own has no place for), jinja, native (what gpt-oss' template writes) or harmony (what openai-harmony writes, for vLLM and other servers built on it)
        template_backend: String = "auto".to_owned(), changes Rows
            => sft "different: chooses between the model's Jinja template, `native` (the same text without it) and `harmony` (what openai-harmony and vLLM send): see [Which prompts](gpt-oss-20b.md#which-prompts)",
               infer(Option<String> = None) "different: as for `sft`; as in the run that made the weights",
               deploy(Option<String> = None) "different: as for `sft`; as in the run that made the weights";
        /// Move <think>...</think> at the start of an answer to the analysis channel
        think_to_analysis: bool = true, changes Rows
            => sft "only in Apus",
               infer(Option<bool> = None) "only in Apus; as in the run that made the weights, else `true`",
               deploy(Option<bool> = None) "only in Apus; as in the run that made the weights, else `true`";
        /// Keep the reasoning of earlier turns, which the model's template leaves out
        keep_thinking | preserve_thinking: bool = false, changes Rows
            => sft "ms-swift's `preserve_thinking`; it never drops what was written by hand",
               infer(Option<bool> = None) "ms-swift's `preserve_thinking`; as in the run that made the weights",
               deploy(Option<bool> = None) "ms-swift's `preserve_thinking`; as in the run that made the weights";
        /// Header tokens that are trained: channel (what the model writes itself), full, or none
        train_header: TrainHeader = TrainHeader::AfterPrompt, changes Rows
            => sft "only in Apus; ms-swift trains what stands in the content";
        /// What is trained where an earlier answer ends: return (the label is <|return|>), end or none
        train_stop: TrainStop = TrainStop::AsGenerated, changes Rows
            => sft "only in Apus; `none` is what ms-swift does";
    }
    Adapter {
        /// lora, full, or the name of a tuner, which adds parameters of its own to the layers of target_modules
        train_type | tuner_type | sft_type: TrainType = TrainType::Lora
            => sft "same for `lora` and `full`; other names are those of tuners, which are components (`apus components tuner`)", bench;
        /// Rank
        lora_rank: usize = 8, bounds between(1.0, MAX_RANK as f64)
            => sft "same", bench;
        /// Scale: the update is alpha / rank * B A
        lora_alpha: f64 = 32.0, bounds ANY
            => sft "same", bench;
        /// Probability of dropping an input of A
        lora_dropout: f64 = 0.0, bounds SHARE
            => sft "different default: ms-swift 0.05, which PEFT refuses together with `target_parameters`";
        /// Linear layers to adapt: all-linear, names, or a pattern
        target_modules: Vec<String> = vec!["all-linear".to_owned()], over target_regex
            => sft "same, and `none` for none; an error if nothing matches", bench;
        /// Pattern for whole module paths, in place of target_modules
        target_regex: Option<String> = None
            => sft "same; an error if nothing matches";
        /// Expert parameters to adapt, such as 7.mlp.experts.gate_up_proj
        target_parameters: Vec<String> = Vec::new()
            => sft "same meaning as in PEFT; an error if nothing matches", bench;
        /// Modules trained whole: names, all-embedding, all-norm
        modules_to_save: Vec<String> = Vec::new()
            => sft "same";
        /// Ranks of targets that have another one, as JSON: {"q_proj": 16}, by the ends of names or patterns of them
        rank_pattern: Map<String, Value> = Map::new()
            => sft "only in Apus; as PEFT's `rank_pattern`";
        /// Alphas of targets that have another one, in the same way
        alpha_pattern: Map<String, Value> = Map::new()
            => sft "only in Apus; as PEFT's `alpha_pattern`";
        /// Scale by alpha / sqrt(rank)
        use_rslora: bool = false
            => sft "same";
        /// Learn magnitudes by themselves (DoRA)
        use_dora: bool = false
            => sft "same; not with `target_parameters`, as in PEFT";
        /// Learning rate of B over that of A (LoRA+)
        lorap_lr_ratio: Option<f64> = None, bounds above(0.0)
            => sft "same; a flag of its own, not `--optimizer lorap`";
        /// How A starts: true (kaiming uniform) or gaussian
        init_weights | init_lora_weights: InitWeights = InitWeights::KaimingUniform
            => sft "same for `true` and `gaussian`; others are errors";
    }
    Training {
        /// Passes over the data
        num_train_epochs: f64 = 3.0, changes Learning, over max_steps, term max_steps, bounds above(0.0)
            => sft "same";
        /// Optimizer steps, in place of epochs; -1 for none
        max_steps: i64 = -1, changes Learning, bounds from(-1.0)
            => sft "same";
        /// Examples in a micro-batch
        per_device_train_batch_size: usize = 1, bounds COUNT
            => sft "same";
        /// Examples in a batch of an evaluation
        per_device_eval_batch_size: usize = 1, bounds COUNT
            => sft "same";
        /// Micro-batches in a step; 16 examples in all if not given
        gradient_accumulation_steps: Option<usize> = None, bounds COUNT
            => sft "same: 16 examples in all";
        /// Keep only the inputs of layers and compute the rest again
        gradient_checkpointing | activation_checkpointing: bool = true
            => sft "same", bench;
        /// Layers that keep everything all the same: a number, or auto
        gradient_checkpointing_skip_layers: SkippedLayers = SkippedLayers::Count(0)
            => sft "only in Apus", bench;
        /// The loss
        loss_type | loss: Spec = Spec::named(LOSS), changes Learning
            => sft "same meaning; `apus components loss` lists what there is; ms-swift leaves it empty", bench;
        /// Weight of the router's load-balancing loss
        router_aux_loss_coef: f64 = 0.0, changes Learning, bounds from(0.0)
            => sft "same for one micro-batch a step. With accumulation, each micro-batch's auxiliary loss counts by its share of the trained tokens; ms-swift does so only where a loss scale has weights, and else adds it whole, so that it counts `gradient_accumulation_steps` times";
        /// NEFTune: uniform noise up to alpha / sqrt(tokens * width) on the embeddings of a sequence while training
        neftune_noise_alpha: Option<f64> = None, changes Learning, bounds from(0.0)
            => sft "same, as transformers: uniform noise up to alpha / sqrt(L d) on the embeddings in training. L counts the sequence's own tokens, as there is no padding";
        /// Seed of adapters and dropout
        seed: u64 = 42, changes Learning, bounds ANY
            => sft "same", bench;
        /// Repeat bit for bit on the same machine, or refuse to run
        deterministic | full_determinism: bool = false
            => sft "same meaning; what cannot be repeated is an error",
               infer "only in Apus: an answer has the same bits whatever else is answered, and on the same machine each time",
               deploy "only in Apus: an answer has the same bits whatever else is answered",
               bench;
        /// Callbacks
        callbacks: Vec<Spec> = Vec::new()
            => sft "same meaning; names of components";
        /// Checkpoint to go on from exactly, or true for the newest whole one in output_dir
        resume_from_checkpoint: Option<String> = None
            => sft "same; bit for bit on the CPU; also `true` for the newest whole one in `output_dir`, as in transformers";
        /// Take the weights of that checkpoint alone: data, optimizer and schedule start anew
        resume_only_model: bool = false
            => sft "same with `ignore_data_skip true`, which is not needed: data, optimizer and schedule start anew";
        /// As resume_only_model always has it: start with the first example again
        ignore_data_skip: Option<bool> = None
            => sft "`true` goes with `resume_only_model`, where it changes nothing, and `false` without it; the other two are errors";
        /// Flags whose values differ from the checkpoint's on purpose, such as learning_rate or num_train_epochs
        resume_changes: Vec<String> = Vec::new()
            => sft "only in Apus: flags whose new values are meant";
        /// Show the configuration, a memory plan and one example, and stop
        dry_run: bool = false
            => sft "only in Apus; reads no weights, so that it needs no memory for them";
    }
    Optimizer {
        /// Learning rate; 1e-4 for lora, 1e-5 for full if not given
        learning_rate: Option<f64> = None, changes Learning, bounds from(0.0)
            => sft "same: 1e-4, for `full` 1e-5", bench;
        /// adamw_torch, adamw_8bit, adafactor, muon, schedule_free_adamw, sgd, lion or another name of transformers: shorthand for optimizer
        optim: String = OPTIM.to_owned(), changes Learning, over optimizer, term optimizer
            => sft "same for `adamw_torch`, `adamw_torch_fused`, `paged_adamw_32bit` (which pages nothing here), `sgd`, `lion_32bit`, `adafactor`, `muon`, `schedule_free_adamw` and, with moments of 8 bits, `adamw_8bit`, `adamw_bnb_8bit`, `adamw_torch_8bit` and `paged_adamw_8bit`, with `adam_beta1` and `adam_beta2`; `galore` is `--use_galore true`; others are an error that says so";
        /// The optimizer
        optimizer: Option<Spec> = None, changes Learning, over optim
            => sft "different: a component with options, not a Python function; ms-swift's `galore` and `muon` are components of these names, `lorap` is `--lorap_lr_ratio`", bench;
        /// Weight decay
        weight_decay: f64 = 0.1, changes Learning, term optimizer, option weight_decay, bounds from(0.0)
            => sft "same";
        /// Decay of AdamW's first moment
        adam_beta1: f64 = 0.9, changes Learning, term optimizer, option beta1, bounds SHARE
            => sft "same";
        /// Decay of AdamW's second moment
        adam_beta2: f64 = 0.95, changes Learning, term optimizer, option beta2, bounds SHARE
            => sft "same";
        /// AdamW's epsilon
        adam_epsilon: f64 = 1e-8, changes Learning, term optimizer, option eps, bounds above(0.0)
            => sft "same";
        /// Bound of the gradient norm; 0 does not clip
        max_grad_norm: f64 = 1.0, changes Learning, bounds ANY
            => sft "same", bench;
        /// Seconds that a rank waits for one that lives and does not come, where several train together
        ddp_timeout: u64 = 1800, bounds from(1.0)
            => sft "different default: 1,800 s, where ms-swift waits 18,000,000; saving, evaluating and reading data do not count";
        /// zero0, zero1, zero2, zero3, zero2_offload, zero3_offload, or a configuration of DeepSpeed's: from zero1 on optimizer state and gradients are sharded over the ranks, with zero3 also the frozen base if the whole does not fit a card
        deepspeed: Value = Value::Null
            => sft r#"same names and files, read for what is sharded; values that differ from the flags' are an error as in transformers: see [What --deepspeed and --fsdp mean](several-cards.md#what---deepspeed-and---fsdp-mean)"#, bench;
        /// fsdp2, full_shard, shard_grad_op, hybrid_shard or no_shard, also with auto_wrap and offload, or a JSON file of ms-swift's: read as deepspeed is
        fsdp: Value = Value::Null
            => sft "same names and files as in ms-swift and transformers, read as `deepspeed` is";
        /// Configuration of FSDP, of which reshard_after_forward says whether the base is sharded
        fsdp_config: Value = Value::Null
            => sft "`reshard_after_forward` and `activation_checkpointing` are read";
        /// Shard the frozen base over the ranks: true, false, or auto (if the whole does not fit a card); auto with zero3 or full_shard if not given, else false
        shard_base: Option<ShardBase> = None
            => sft "only in Apus", bench;
        /// constant, constant_with_warmup, linear, cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr, polynomial, inverse_sqrt, warmup_stable_decay, reduce_lr_on_plateau
        lr_scheduler_type: String = LR_SCHEDULER.to_owned(), changes Learning, over lr_scheduler, term lr_scheduler
            => sft "same names and formulas, `cosine_warmup_with_min_lr` among them; `greedy` is an error. `reduce_lr_on_plateau` is a callback too (`apus components`), which resumes; without `mode` it goes by `greater_is_better`, not by `min`";
        /// Options of the schedule, as JSON
        lr_scheduler_kwargs: Map<String, Value> = Map::new(), changes Learning, over lr_scheduler, term lr_scheduler
            => sft "same";
        /// The schedule with its options
        lr_scheduler | lr_schedule: Option<Spec> = None, changes Learning, over lr_scheduler_type | lr_scheduler_kwargs
            => sft "only in Apus; the component that `lr_scheduler_type` is short for";
        /// Share of steps over which the learning rate rises
        warmup_ratio: f64 = 0.0, changes Learning, over warmup_steps, term warmup_steps, bounds SHARE
            => sft "same";
        /// Steps over which the learning rate rises; below 1 a share of all steps
        warmup_steps: Option<StepsOrShare> = None, changes Learning, over warmup_ratio, bounds from(0.0)
            => sft "same; below 1 a share of all steps, as since transformers 5";
    }
    Saving {
        /// steps, epoch or no; as save_strategy if not given
        eval_strategy | evaluation_strategy: Option<EvalStrategy> = None
            => sft "same: as `save_strategy`; `steps` with `save_strategy best`";
        /// Steps between evaluations, below 1 a share of all steps; as save_steps if not given
        eval_steps: Option<StepsOrShare> = None, bounds above(0.0)
            => sft "same: as `save_steps`; below 1 a share of all steps, rounded up";
        /// Evaluation metrics
        metrics | eval_metric | metric: Vec<Spec> = Spec::all_named(METRICS), about Questions
            => sft "different: components ([evaluating.md](evaluating.md)); ms-swift always logs token_acc, which is its `acc`, too",
               infer(Vec<Spec> = Vec::new()) "any metric ([evaluating.md](evaluating.md)); ms-swift has two, of which its `acc` is equality to the letter. The numbers are also written beside the answers, in `.metrics.json`";
        /// Answer the rows of the evaluation data at each evaluation, for metrics that read answers (nlg if none are named)
        predict_with_generate: bool = false
            => sft "same, with `max_new_tokens` and `temperature`, and `predict.jsonl` in the run's folder; the loss is computed beside it, which ms-swift leaves out, so that `metric_for_best_model` stays `loss` unless it is given";
        /// steps, epoch, best (after each evaluation that is the best so far) or no
        save_strategy: SaveStrategy = SaveStrategy::Steps
            => sft "same; `best` as in transformers since 4.46";
        /// Steps between checkpoints; below 1 a share of all steps
        save_steps: StepsOrShare = StepsOrShare::Steps(500), bounds above(0.0)
            => sft "same; below 1 a share of all steps, rounded up";
        /// Checkpoints to keep; the best and the last always stay
        save_total_limit: Option<usize> = None, bounds from(1.0)
            => sft "same; the best and the last are always kept";
        /// Leave the optimizer's state out of checkpoints
        save_only_model: bool = false
            => sft "same";
        /// loss, or a metric
        metric_for_best_model: String = "loss".to_owned()
            => sft r#"same; see "The best checkpoint" above"#;
        /// Whether more of that metric is better; by its name if not given
        greater_is_better: Option<bool> = None
            => sft "same: true unless the name ends with loss, or is the loss of a channel; here `perplexity` is better when less, too";
        /// Go back to the best checkpoint at the end
        load_best_model_at_end: bool = false
            => sft r#"same, `save_steps` a multiple of `eval_steps` and both numbers of steps or both shares; "try it" and the answers at the end are the best checkpoint's"#;
    }
    Logging {
        /// Steps between log lines; below 1 a share of all steps
        logging_steps: StepsOrShare = StepsOrShare::Steps(5), bounds above(0.0)
            => sft "same; below 1 a share of all steps, rounded up";
        /// Log the first step too
        logging_first_step: bool = true
            => sft "same";
        /// Where numbers go beside the terminal and logging.jsonl
        report_to: Vec<String> = Vec::new()
            => sft "different default: ms-swift `tensorboard`; `apus components tracker` lists what there is; `wandb`, `mlflow` are answered in a line; the terminal and logging.jsonl are always on";
        /// Trackers with their options, beside report_to
        trackers: Vec<Spec> = Vec::new()
            => sft "only in Apus";
        /// Seconds that the end of a run waits for its trackers
        tracker_timeout: f64 = 30.0, bounds from(0.0)
            => sft "seconds that the end of a run waits for its trackers";
        /// Name of the run; its folder if not given
        run_name: Option<String> = None
            => sft "same";
        /// Draw images/*.png of every number at each save and at the end, and write report.html
        plot: bool = true
            => sft "only in Apus: `images/*.png` at each save and at the end, as ms-swift draws them, and report.html";
        /// Draw a live panel with the loss curve on the terminal, in place of the progress bar
        tui: bool = false
            => sft "only in Apus: a live panel on the terminal";
        /// Prompts to answer before training, at each evaluation and after training
        sample_prompts: Vec<String> = Vec::new()
            => sft "only in Apus";
    }
    Generation {
        /// Most tokens in an answer
        max_new_tokens: usize = 128, bounds from(1.0)
            => sft "different default: ms-swift 64, for `predict_with_generate`; here also the length of the answers to `sample_prompts`",
               infer(usize = 2048) "different default: ms-swift has no bound",
               deploy(Option<usize> = None) "same: for requests that do not say; without it, as many as the model has positions";
        /// 0 takes the most probable token
        temperature: f64 = 0.0, bounds from(0.0)
            => sft "same, for `predict_with_generate`; also for `sample_prompts`",
               infer(Option<f64> = None) "same: as generation_config.json says; 0 if that does not set `do_sample`. Below 0 is an error",
               deploy(Option<f64> = None) "for requests that do not say: generation_config.json's, else 1, OpenAI's";
        /// Sample among the most probable tokens that make up this probability
        top_p: Option<f64> = None, bounds share_above(0.0)
            => infer "same; above 1, or 0 and less, is an error",
               deploy "for requests that do not say: generation_config.json's, else 1",
               eval "only in Apus; 1 if not given";
        /// Sample among this many of the most probable tokens; 0 for all; as generation_config.json says if not given, else 50
        top_k: Option<i64> = None, bounds from(-1.0)
            => infer "same: as generation_config.json says, else 50 where tokens are sampled. 0 and -1 take all tokens; ms-swift then goes back to the model's own",
               deploy "for requests that do not say: generation_config.json's if that sets `do_sample`, else all tokens",
               eval "only in Apus; all tokens if not given";
        /// Divide the logits of tokens that the prompt or the answer holds already; 1 changes nothing; as generation_config.json says if not given
        repetition_penalty: Option<f64> = None, bounds above(0.0)
            => infer "same: as generation_config.json says; tokens of the prompt count too, and it also changes which token is the most probable one. 0 and less is an error",
               deploy "for requests that do not say: generation_config.json's, else 1",
               eval "only in Apus; 1 if not given";
        /// Keep only tokens that are at least this share as probable as the most probable one; as generation_config.json says if not given
        min_p: Option<f64> = None, bounds between(0.0, 1.0)
            => infer "only in Apus: a field of ms-swift's requests, no argument of its `infer`; as generation_config.json says";
        /// Take this from the logits of all tokens that the answer has already
        presence_penalty: f64 = 0.0, bounds between(-2.0, 2.0)
            => infer "only in Apus: a field of ms-swift's requests, no argument of its `infer`";
        /// Take this from the logit of a token for each time that the answer has it already
        frequency_penalty: f64 = 0.0, bounds between(-2.0, 2.0)
            => infer "only in Apus: a field of ms-swift's requests, no argument of its `infer`";
        /// Strings that end an answer, which then ends with them
        stop_words: Vec<String> = Vec::new()
            => infer "same: they stay in the answer. They are found wherever tokens end, and in reasoning too";
        /// Answers to each row, a line each
        n | num_return_sequences: usize = 1, about Questions, bounds COUNT
            => infer "only in Apus: a field of ms-swift's requests, no argument of its `infer`. The first answer is the one that a row has without it";
        /// Write the log-probability of each token of an answer
        logprobs: bool = false, about Questions
            => infer "same: the model's own, before temperature and penalties. Without it a line has no key `logprobs`, where ms-swift writes null";
        /// Write the most probable tokens at each place too, so many
        top_logprobs: Option<usize> = None, about Questions, bounds between(0.0, 1000.0)
            => infer "same; without `logprobs` it is an error";
        /// Seed of sampling; each answer draws numbers of its own
        seed: u64 = 42, bounds ANY
            => infer "different: each row draws random numbers of its own, whatever else is answered in the run",
               deploy "for requests that do not say";
        /// Print an answer as it comes
        stream: Option<bool> = None
            => infer "same: on at the terminal";
        /// Print the analysis channel too
        show_thinking: bool = true
            => infer "only in Apus";
        /// File for the answers, jsonl; if it holds some of them, the others are appended
        result_path: Option<String> = None
            => infer "different: a file that holds some of the answers to the same rows is gone on with, and one that holds anything else is an error; ms-swift answers all rows again behind what is there. A conversation on the terminal is appended. Without it, answers to a dataset are in `infer_result/` beside the weights that a run made, else in `result/<model>`";
        /// Rows that are answered at the same time
        max_batch_size: usize = 64, about Questions, bounds between(1.0, 65536.0)
            => infer "different default: ms-swift 1. Each row is answered as it would be alone";
        /// Lines that are written together; 0 or -1 for all at the end
        write_batch_size: i64 = 1, about Questions, bounds from(-1.0)
            => infer "different default: ms-swift 1000. What is ready is written when a run is stopped, too";
        /// Answer this many rows of val_dataset, the first ones
        val_dataset_sample: Option<usize> = None, about Questions, bounds from(0.0)
            => infer "different: the first N rows; ms-swift draws N with `data_seed`, and takes rows again where there are fewer";
        /// Token ids whose logits go to dump_logits
        input_ids: Vec<String> = Vec::new()
            => infer "only in Apus";
        /// Write the logits of input_ids to this safetensors file and stop
        dump_logits: Option<String> = None
            => infer "only in Apus";
    }
    Serving {
        /// The address to listen at; other machines reach only one that is given, which needs api_key
        host: String = "127.0.0.1".to_owned()
            => deploy "different default: ms-swift 0.0.0.0; an address that others reach is refused without `api_key`";
        /// The port to listen at; 0 for any that is free
        port: u16 = 8000, bounds between(0.0, 65535.0)
            => deploy "same; a port that is taken is an error, where ms-swift takes the next one";
        /// The key that clients send as `Authorization: Bearer KEY`; APUS_API_KEY if not given
        api_key: Option<String> = None
            => deploy "same; also by the variable APUS_API_KEY, which other users of the machine do not see";
        /// The key that adapters are added and removed with; APUS_ADMIN_API_KEY if not given, and without either nobody can
        admin_api_key: Option<String> = None
            => deploy "only in Apus";
        /// The folder below which adapters may be added while the server runs
        adapters_dir: Option<String> = None
            => deploy "only in Apus";
        /// The name of the model in requests and answers; that of its folder if not given
        served_model_name: Option<String> = None
            => deploy "same";
        /// Whose the models are, in the list of models
        owned_by: String = "apus".to_owned()
            => deploy "different default: ms-swift `swift`";
        /// A line for each request
        verbose: bool = true
            => deploy "same, without the texts of requests and answers";
        /// Seconds between lines with counts and speed; -1 for none
        log_interval: i64 = 20, bounds from(-1.0)
            => deploy "same";
        /// The most tokens whose log-probabilities a request gets at each place
        max_logprobs: usize = 20, bounds between(0.0, 1000.0)
            => deploy "same";
        /// Answers that are generated at the same time
        max_batch_size | max_num_seqs | vllm_max_num_seqs: usize = 64, bounds between(1.0, 65536.0)
            => deploy "same meaning as vLLM's `max_num_seqs`";
        /// Tokens that the cache has room for; as many as memory allows if not given
        cache_tokens: Option<usize> = None, bounds COUNT
            => deploy "only in Apus";
        /// Tokens of prompts that are computed in one step, beside those that are generated
        prefill_chunk: usize = 2048, bounds COUNT
            => deploy "vLLM's `max_num_batched_tokens`, nearly";
        /// Keep the beginnings of prompts in the cache for later requests
        prefix_cache | vllm_enable_prefix_caching: bool = true
            => deploy "same, and on as in vLLM";
        /// Answers that may wait for their turn; further requests get status 429
        max_queue: usize = 256, bounds between(0.0, 65536.0)
            => deploy "only in Apus";
        /// Bytes that the body of a request may have
        max_body_bytes: usize = 8_388_608, bounds COUNT
            => deploy "only in Apus";
        /// Connections at one time; further ones wait
        max_connections: usize = 512, bounds between(1.0, 65536.0)
            => deploy "only in Apus";
        /// Seconds that a request may take, waiting included; then it gets status 504, or its stream an error
        request_timeout: f64 = 600.0, bounds above(0.0)
            => deploy "only in Apus";
        /// Seconds that a client may take to send a request, or to take the next piece of its answer
        client_timeout: f64 = 30.0, bounds above(0.0)
            => deploy "only in Apus";
        /// Seconds that running answers have to end after SIGTERM or Ctrl-C
        drain_timeout: f64 = 30.0, bounds from(0.0)
            => deploy "only in Apus";
    }
    Output {
        /// Folder for runs; each gets its own v{N}-{time} inside
        output_dir: String = "output".to_owned()
            => sft "different default: ms-swift `output/<model>`; made absolute at the start, as there";
        /// Make a folder of its own for the run
        add_version: bool = true
            => sft "same";
        /// Folder to write
        output_dir | out: Option<String> = None
            => export "same: the adapter's folder with `-merged`, `-vllm` or `-gguf` behind it, or the model's with `-mxfp4`, `-bf16` or `-gguf`",
               model_new "only in Apus";
        /// Exporter that writes the folder, as `apus components exporter` lists them
        to: Option<Spec> = None
            => export "only in Apus: a component with options; `merged`, `mxfp4`, `bf16`, `gguf` and `vllm` are what the flags below write; `apus components exporter` lists all";
        /// Merge the adapter into the model
        merge_lora: bool = false
            => export "same weights; experts that no adapter touches stay in MXFP4 bit for bit, where ms-swift writes all in BF16. The run's args.json goes along, as there";
        /// mxfp4: pack BF16 experts, with merge_lora those that were merged
        quantize: Option<Quantize> = None
            => export "different: `mxfp4` only, in place of `quant_method`; with `merge_lora` in the same step";
        /// Write the adapter alone in the form that vLLM takes
        to_vllm: bool = false
            => export "only in Apus: PEFT's files with the pairs that vLLM wants of experts; what it does not take is refused by name";
        /// Write one GGUF file, for llama.cpp and what is built on it; with adapters, merged
        to_gguf: bool = false
            => export "only in Apus, where ms-swift writes a Modelfile for ollama: the whole model with tokenizer and template in one file, without a detour over a merged directory";
        /// What the GGUF file holds: auto (matrices in bf16, but experts that no adapter touches as they are), mxfp4 (all experts packed), bf16 or f32; auto if not given
        outtype: Option<GgufType> = None
            => export "as `convert_hf_to_gguf.py` of llama.cpp names it: `auto` (the default), `bf16`, `f32`; `mxfp4` packs merged experts again";
        /// Size of a file of weights, such as 5GB
        max_shard_size: String = "5GB".to_owned()
            => export "same: `GB` is 10^9 bytes, `GiB` 2^30";
        /// Replace the output folder if it is there
        exist_ok: bool = false
            => export "same; a folder that holds anything but a model is not replaced";
        /// gpt-oss-20b, gpt-oss-120b, or a config.json
        arch: String = "gpt-oss-20b".to_owned()
            => model_new "only in Apus";
        /// Experts as mxfp4 or bf16
        format: ExpertsForm = ExpertsForm::Mxfp4
            => model_new "only in Apus";
        /// Seed of the weights
        seed: u64 = 42, bounds ANY
            => model_new "only in Apus";
        /// Directory or id whose tokenizer files are copied along
        tokenizer: Option<String> = None
            => model_new "only in Apus";
    }
    Looking {
        /// Examples to print, drawn with data_seed, and the longest one
        samples: usize = 3, bounds from(0.0)
            => data "only in Apus";
        /// Write a page with the table, lengths and examples to this file
        html: Option<String> = None
            => data "only in Apus";
        /// Write every prepared example to this jsonl file, which can be trained as it is
        out: Option<String> = None
            => data "only in Apus";
        /// Measure the model without an adapter too, where there are adapters
        with_base: bool = true
            => eval "only in Apus";
        /// Show so many rows of each dataset whose answers differ from model to model, beside the dataset's
        show_answers: usize = 0, bounds from(0.0)
            => eval "only in Apus";
        /// Write the numbers of every dataset, model and row to this file
        json: Option<String> = None
            => eval "only in Apus";
        /// Write a page with the table and the answers to this file
        html: Option<String> = None
            => eval "only in Apus";
    }
    Measuring {
        /// Sequences in a step
        batch: usize = 4, bounds COUNT
            => bench "only in Apus";
        /// Tokens in a sequence: a number, or a range such as 64:4096 from which lengths are drawn, short ones as often as long ones
        seq: Lengths = Lengths::all_of(4096)
            => bench "only in Apus";
        /// Steps to time, of which the first two are reported apart
        steps: usize = 12, bounds from(1.0)
            => bench "only in Apus";
        /// Share of tokens that are trained
        trained_share: f64 = 1.0, bounds share_above(0.0)
            => bench "only in Apus";
        /// Time each operation alone, at the model's sizes, in place of training
        ops: bool = false
            => bench "only in Apus";
        /// Time answers in place of training
        generate: bool = false
            => bench "only in Apus";
        /// The answers to time: streams x tokens of a prompt + tokens of an answer, one load after another
        loads: GenerationLoads = GenerationLoads::default()
            => bench "only in Apus";
        /// Write the figures to this file too
        json: Option<String> = None
            => bench "only in Apus";
        /// Show the figures beside those that an earlier measurement wrote to this file with --json
        against: Option<String> = None
            => bench "only in Apus";
    }
}
