//! What is HTTP and nothing of models: bodies, errors, keys, events, connections.

pub mod body;
pub mod connections;
pub mod error;
pub mod keys;
mod patient;
pub mod sse;

pub use error::ApiError;
