//! Dataset formats: rows to conversations.

mod alpaca;
mod calls;
mod content;
mod header;
mod keys;
mod literal;
mod marks;
mod message;
mod messages;
mod pairs;
mod query_response;
mod reasoning;
mod row;
mod setting;
mod sharegpt;
mod tokens;
mod tools;
