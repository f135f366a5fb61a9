//! The answering engine on the reference model: whatever is answered together, each answer is the one that it is alone.

mod adapters;
#[path = "../common/mod.rs"]
mod common;
mod draws;
mod requests;
mod support;
mod together;
