//! The components of a run of which nothing is said: the only names of components in `core`.

/// The loss, `loss_type`.
pub(super) const LOSS: &str = "cross_entropy";

/// The loss scales, `loss_scale`.
pub(super) const LOSS_SCALE: &[&str] = &["default"];

/// The optimizer by its name in transformers, `optim`.
pub(super) const OPTIM: &str = "adamw_torch";

/// The schedule, `lr_scheduler_type`.
pub(super) const LR_SCHEDULER: &str = "cosine";

/// The tuner, `train_type`.
pub const TUNER: &str = "lora";

/// The sampler of a run that names none.
pub(super) const SAMPLER: &str = "random";

/// The sampler with `train_dataloader_shuffle false`.
pub(super) const SAMPLER_IN_ORDER: &str = "sequential";

/// The sampler with `group_by_length true`, and its option for `train_dataloader_shuffle`.
pub(super) const SAMPLER_BY_LENGTH: (&str, &str) = ("group_by_length", "shuffle");

/// The metrics of an evaluation, `metrics`.
pub(super) const METRICS: &[&str] = &["token_acc"];

/// The metrics of answers beside them, with `predict_with_generate`; ms-swift's.
pub(super) const ANSWER_METRICS: &[&str] = &["nlg"];

/// The trackers that every run has, whatever `report_to` and `trackers` name beside them.
pub const TRACKERS: &[&str] = &["console", "jsonl"];
