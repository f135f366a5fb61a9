//! Dataset formats: rows to conversations.

mod alpaca;
mod calls;
mod content;
mod literal;
mod message;
mod messages;
mod pairs;
mod query_response;
mod row;
mod sharegpt;
mod tokens;
