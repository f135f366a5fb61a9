//! `apus deploy`: a server that speaks OpenAI's API.
//!
//! The engine runs on a thread of its own with the model (`worker`); handlers turn a request into prompts (`chat`,
//! `completions`, `responses`), wait for events and turn tokens into what a client reads (`answer`). What a dialect writes and
//! what it means is known in `apus_data::chat::dialect` alone.

mod adapters;
mod answer;
mod chat;
mod completions;
mod constrain;
mod http;
mod metrics;
mod models;
mod responses;
mod routes;
mod sampling;
mod server;
mod settings;
mod start;
mod target;
#[cfg(test)]
mod tests;
mod worker;

pub use start::deploy;

/// Reads the body of a request as an endpoint would, for tests of whatever a client may send: nothing panics.
pub fn read_anything(body: &[u8]) {
    chat::read_anything(body);
    completions::read_anything(body);
    responses::read_anything(body);
}
