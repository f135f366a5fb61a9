//! `apus deploy`: the server from outside, by raw HTTP and by the official clients.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod answers;
mod clients;
mod ends;
mod errors;
mod limits;
mod server;
mod soak;
