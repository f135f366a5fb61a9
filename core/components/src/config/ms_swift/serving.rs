//! What `apus deploy` answers beside what `apus infer` does: arguments of ms-swift's server, and flags of `apus infer` that a
//! server has no use for.

use super::{D, MsSwiftArguments, no_effect, refused};

#[rustfmt::skip]
pub(super) const TABLE: &[MsSwiftArguments] = &[
    refused(D, &["ssl_keyfile", "ssl_certfile"], &[],
        "the server speaks plain HTTP; a proxy such as nginx or Caddy in front of it speaks HTTPS"),
    refused(D, &["log_level"], &["info"], "--verbose and --log_interval say which lines there are"),
    no_effect(D, &[
        "dataset", "val_dataset", "columns", "disable_auto_column_mapping", "strict", "result_path", "val_dataset_sample",
        "write_batch_size", "metric",
    ],
        "a server reads no data"),
    no_effect(D, &["stop_words", "logprobs", "top_logprobs", "n", "num_return_sequences", "min_p", "presence_penalty", "frequency_penalty"],
        "a request says what it wants"),
    no_effect(D, &["stream"], "a request says whether its answer is streamed"),
];
