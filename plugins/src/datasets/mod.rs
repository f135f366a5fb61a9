//! Datasets by the names that ms-swift and its tutorials use.

mod catgirl;
mod multilingual_thinking;
mod self_cognition;
