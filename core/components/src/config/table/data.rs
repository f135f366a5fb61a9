//! What is trained on, and how it becomes tokens.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
        }
    };
}
pub(super) use rows;
