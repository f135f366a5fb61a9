//! Turns conversations into tokens with labels and weights, and generated tokens back into messages.
//!
//! The loss scales weigh the texts of a conversation's turns ([`turns`], [`scale`]), it is rendered to text by the
//! model's own template ([`jinja`]) or by a built-in renderer of the harmony format ([`harmony`]), the rendered text is
//! read back into messages so that weights land on the right bytes ([`align`]), and the whole is tokenised once
//! ([`encode`]).

pub mod align;
mod answer;
mod assistant_texts;
mod call;
pub mod control;
pub mod encode;
pub mod frame;
pub mod harmony;
pub mod jinja;
mod join;
pub mod json;
mod model_template;
pub mod notes;
pub mod preview;
pub mod rendered;
pub mod scale;
pub mod split;
pub mod template;
pub mod tokenizer;
pub mod turns;
pub mod weighted;
mod word_tokenizer;

pub use encode::{EncodeOptions, Encoded, Encoder};
pub use frame::{TrainHeader, TrainStop};
pub use notes::RowNotes;
pub use rendered::Rendered;
pub use scale::Chain;
pub use template::{ChatTemplate, RenderOptions, Renderer};
pub use tokenizer::Tokenizer;
