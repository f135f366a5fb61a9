//! The model, and plugins.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
        }
    };
}
pub(super) use rows;
