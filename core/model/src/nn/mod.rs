//! The blocks that decoders are built of, each with an explicit forward and backward pass.
//!
//! `forward` returns its output and a tape, which holds what `backward` reads; parameters that are trained accumulate their
//! gradients there. Which blocks a model has, and how they are set, is said by its
//! [`Architecture`](crate::families::Architecture): no block knows a family.

mod attention;
mod decoder;
mod dense_mlp;
mod embedding;
mod experts;
pub mod few_rows;
mod fused_linear;
mod head;
mod layer;
mod linear;
mod mixture;
mod mlp;
mod neftune;
mod norm;
mod paged_cache;
mod param;
mod projections;
mod qk_norms;
mod ready;
mod rope;
mod sharding;
mod step;
#[cfg(test)]
mod tests;
mod tuned;
mod updates;

pub use attention::{Attention, BatchLayout};
pub use decoder::{Decoder, ForwardOptions, Pass};
pub use dense_mlp::DenseMlp;
pub use embedding::Embedding;
pub use experts::{ExpertLinear, ExpertLora, ExpertWeight};
pub use head::Head;
pub use layer::{BlockTuners, DecoderLayer};
pub use linear::{Linear, Lora};
pub use mixture::Mixture;
pub use mlp::Mlp;
pub use neftune::Neftune;
pub use norm::Norm;
pub use paged_cache::{CacheKind, LayerPool, PagedCache};
pub use param::{Param, Weight, decays};
pub use projections::Projections;
pub use qk_norms::QkNorms;
pub use ready::{OnReady, Ready};
pub use rope::Angles;
pub use sharding::{Gather, Read, Sharded, Sharding, Unit, UnitBuilder, Units, most_at_a_time};
pub use step::Step;
pub use tuned::{Tuned, Tuning, tape_bytes};
pub use updates::{LayerUpdates, RowUpdates, StepRows, StepUpdates};
