//! gpt-oss: configuration, weights, layers with explicit forward and backward, low-rank updates.

mod attention;
pub mod config;
mod embedding;
mod experts;
mod gpt_oss;
mod head;
mod joined;
mod layer;
mod linear;
mod load;
mod lora;
mod moe;
mod neftune;
mod norm;
mod param;
pub mod yarn;

pub use attention::KvCache;
pub use config::Config;
pub use experts::{ExpertLinear, ExpertLora, Matrix};
pub use gpt_oss::{Cache, ForwardOptions, GptOss, Pass};
pub use head::Head;
pub use layer::DecoderLayer;
pub use linear::{Linear, Lora};
pub use load::{ExpertsDtype, LoadOptions, Training};
pub use lora::{ExpertMatrix, Init, LoraSettings, Targets};
pub use neftune::Neftune;
pub use param::{Param, Weight};
