//! Optimizers: one update of the trainable parameters.

mod adamw;
mod lion;
mod sgd;
