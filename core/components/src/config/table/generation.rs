//! Answers.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
        }
    };
}
pub(super) use rows;
