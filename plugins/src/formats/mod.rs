//! Dataset formats: rows to conversations.
