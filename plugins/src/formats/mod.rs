//! Dataset formats: rows to conversations.

mod alpaca;
mod calls;
mod content;
mod keys;
mod literal;
mod marks;
mod message;
mod messages;
mod pairs;
mod query_response;
mod row;
mod sharegpt;
mod tokens;
