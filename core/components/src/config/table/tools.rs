//! What is written, looked at and measured.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
    };
}
pub(super) use rows;
