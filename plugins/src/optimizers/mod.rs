//! Optimizers: one update of the trainable parameters.

mod adafactor;
mod adamw;
mod adamw_8bit;
mod columns;
mod galore;
#[cfg(test)]
mod goldens;
mod lion;
mod muon;
mod schedule_free_adamw;
mod sgd;
mod singular;
