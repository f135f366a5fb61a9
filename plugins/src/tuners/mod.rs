//! Tuners: parameters added to layers of a frozen model.

mod activation;
mod adapter;
mod factors;
mod ia3;
mod lora;
mod pissa;
mod reft;
