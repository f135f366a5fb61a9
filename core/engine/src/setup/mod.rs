//! The common setup of the commands: finds the model, makes the encoder, prepares the data.

mod ask;
mod base;
mod chat;
mod columns;
mod data;
mod made_later;
mod model;
mod run_args;

pub use ask::{Chosen, ask, setup_of};
pub use base::base_of;
pub use chat::{ChatOptions, chat_dir, encode_options, encoder, model_word, run_encoder};
pub use columns::AskedColumns;
pub use data::{Data, data, formats, longest};
pub use made_later::MadeLater;
pub use model::{ModelPlace, find_model, lasting, load, load_options, model_files};
pub use run_args::RunArgs;
