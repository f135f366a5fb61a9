//! What is trained, and how.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
                /// How A and B start: true (kaiming uniform and zero), gaussian, or of the weight: pissa, pissa_niter_16, olora
                init_weights | init_lora_weights: InitWeights = InitWeights::KaimingUniform
                    => sft "same for `true`, `gaussian`, `pissa`, `pissa_niter_N` and `olora`, which leave the base as it is (`apus components tuner`: `pissa`); others are errors";
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
        }
    };
}
pub(super) use rows;
