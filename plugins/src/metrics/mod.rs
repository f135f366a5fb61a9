//! Evaluation metrics.

mod token_acc;
