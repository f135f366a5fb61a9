//! gpt-oss: its configuration, weights, layers with explicit forward and backward passes, and low-rank updates.

mod attention;
mod embedding;
mod experts;
mod fused_linear;
mod gpt_oss;
mod head;
mod layer;
mod linear;
mod load;
mod lora;
mod moe;
mod neftune;
mod norm;
mod param;
pub mod yarn;

pub use attention::LayerKvCache;
pub use experts::{ExpertLinear, ExpertLora, ExpertWeight};
pub use gpt_oss::{ForwardOptions, GptOss, KvCache, Pass};
pub use head::Head;
pub use layer::DecoderLayer;
pub use linear::{Linear, Lora};
pub use load::{ExpertsDtype, LoadOptions, Training};
pub use lora::{Init, LoraSettings, Targets};
pub use neftune::Neftune;
pub use param::{Param, Weight};
