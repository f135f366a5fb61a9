//! Dataset formats: rows to conversations.

mod alpaca;
mod content;
mod message;
mod messages;
mod query_response;
mod row;
mod sharegpt;
mod tokens;
