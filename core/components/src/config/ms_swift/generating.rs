//! Answers, engines of inference, and exported models.

use super::{E, I, IE, MsSwiftArguments, S, SE, no_effect, refused};

#[rustfmt::skip]
pub(super) const TABLE: &[MsSwiftArguments] = &[
    refused(I, &["num_beams"], &["1"],
        "beams are not searched: an answer is greedy with --temperature 0, sampled with a higher one, and --n N gives N of them"),
    refused(I, &["best_of"], &["1"], "the best of several answers is not chosen; --n N writes all N, with --logprobs true"),
    refused(I, &["length_penalty"], &["1"], "only beams have it, which are not searched"),
    refused(I, &["structured_outputs_regex"], &[], "an answer cannot be bound to a pattern"),
    no_effect(S, &[
        "top_k", "top_p", "repetition_penalty", "num_beams", "stream", "stop_words", "logprobs", "top_logprobs",
        "structured_outputs_regex",
    ],
        "answers of a run have --max_new_tokens and --temperature, also in ms-swift"),
    no_effect(E, &[
        "max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "num_beams", "stream", "stop_words",
        "logprobs", "top_logprobs", "structured_outputs_regex",
    ],
        "export answers nothing"),
    refused(I, &["merge_lora"], &["false"],
        "an adapter answers unmerged; `apus export --merge_lora true` writes a merged model"),
    no_effect(I, &["max_shard_size", "safe_serialization"], "infer writes no weights"),
    no_effect(SE, &["safe_serialization"], "weights are always safetensors"),
    no_effect(I, &["reranker_use_activation"], "gpt-oss is no reranker"),
    no_effect(IE, &["infer_backend"], "answers come from Apus itself"),
    refused(I, &["vllm_quantization", "sglang_quantization", "lmdeploy_quant_policy"], &["0"],
        "the model answers as it is in its checkpoint"),
    refused(I, &["vllm_max_model_len", "sglang_context_length", "lmdeploy_session_len"], &[],
        "the model's config.json says how long a text may be; --max_new_tokens bounds an answer"),
    no_effect(I, &[
        "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_pipeline_parallel_size",
        "vllm_enable_expert_parallel", "vllm_max_num_seqs", "vllm_disable_custom_all_reduce", "vllm_enforce_eager",
        "vllm_limit_mm_per_prompt", "vllm_max_lora_rank", "vllm_enable_prefix_caching", "vllm_use_async_engine",
        "vllm_reasoning_parser", "vllm_disable_cascade_attn", "vllm_mm_processor_cache_gb", "vllm_speculative_config",
        "vllm_engine_kwargs", "vllm_data_parallel_size", "gpu_memory_utilization", "tensor_parallel_size",
        "limit_mm_per_prompt", "data_parallel_size", "use_async_engine", "sglang_tp_size", "sglang_pp_size",
        "sglang_dp_size", "sglang_ep_size", "sglang_enable_ep_moe", "sglang_mem_fraction_static",
        "sglang_disable_cuda_graph", "sglang_kv_cache_dtype", "sglang_enable_dp_attention",
        "sglang_disable_custom_all_reduce", "sglang_speculative_algorithm", "sglang_speculative_num_steps",
        "sglang_speculative_eagle_topk", "sglang_speculative_num_draft_tokens", "lmdeploy_tp",
        "lmdeploy_cache_max_entry_count", "lmdeploy_vision_batch_size",
    ],
        "answers come from Apus itself"),
    refused(E, &["to_cached_dataset"], &["false"], "`apus data --out FILE` writes prepared data that can be trained"),
    refused(E, &["to_ollama"], &["false"],
        "--to_gguf true writes a file that ollama loads: `FROM ./FILE.gguf` in a Modelfile"),
    refused(E, &["to_mcore", "to_hf"], &["false"],
        "there is --merge_lora and --quantize mxfp4, which write what Hugging Face reads"),
    no_effect(E, &[
        "mcore_model", "mcore_adapter", "mcore_adapters", "thread_count", "test_convert_precision",
        "test_convert_dtype", "save_missing_weights",
    ],
        "only with to_mcore or to_hf, which are errors"),
    no_effect(E, &["to_peft_format"], "adapters are always PEFT's"),
    no_effect(E, &["hub_model_id", "hub_private_repo", "commit_message"], "only with push_to_hub, which is an error"),
];
