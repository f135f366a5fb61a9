//! A server.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
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
        }
    };
}
pub(super) use rows;
