//! Tuners: parameters added to layers of a frozen model.

mod ia3;
mod lora;
