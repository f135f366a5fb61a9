//! Turns conversations into tokens with labels and weights, and generated tokens back into messages.
//!
//! The loss scales weigh the texts of a conversation's turns ([`turns`], [`scale`]), it is rendered to text by the
//! model's own template ([`jinja`]) or by a built-in renderer, the rendered text is
//! read back into messages so that weights land on the right bytes ([`align`]), and the whole is tokenised once
//! ([`encode`]). What only one family of models has is its [`dialect`].

pub mod align;
mod assistant_texts;
mod byte_tokenizer;
mod call;
pub mod control;
pub mod dialect;
pub mod encode;
pub mod folds;
pub mod jinja;
mod join;
pub mod json;
mod model_template;
pub mod notes;
pub mod preview;
pub mod rendered;
pub mod scale;
pub mod template;
mod think;
pub mod tokenizer;
pub mod turns;
mod weigh;
pub mod weighted;
mod word_tokenizer;

pub use apus_components::config::{TrainHeader, TrainStop};
pub use dialect::Dialect;
pub use encode::{EncodeOptions, Encoded, Encoder};
pub use folds::{Folds, OfRow};
pub use notes::{RowNoteTexts, RowNotes};
pub use rendered::Rendered;
pub use scale::Chain;
pub use template::{ChatTemplate, RenderOptions, Renderer};
pub use tokenizer::Tokenizer;
