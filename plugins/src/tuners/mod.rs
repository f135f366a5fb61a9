//! Tuners: parameters added to layers of a frozen model.

mod activation;
mod adapter;
mod ia3;
mod lora;
mod reft;
