//! Attention over keys and values that lie in pages: several sequences of any lengths side by side in one pool, each with a table
//! of its pages. Forward only, for generation.
//!
//! A pool is a tensor `[pages * PAGE, KV D]` of keys and one of values, for each layer. The key of position `i` of a sequence is in
//! row `pages[i / PAGE] * PAGE + i % PAGE`, rotated. New tokens are written first ([`rotate_and_write`]) and attend then ([`attend`]), so that
//! a query sees its own key.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod layout;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use cuda::{DecodeBuffers, DecodeStep, decode, rotate_and_write_into};
pub use layout::{HostLayout, PagedLayout};

use super::Heads;
use super::attention::or_minus_infinity;
use super::rope::RopeTable;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// The number of positions in a page.
pub const PAGE: usize = 16;

/// Rotates the queries and keys of new tokens `[T, (Q + 2 KV) D]` by their positions, as [`rope::apply`](super::rope::apply), and
/// writes keys and values, the second and third part, to their rows in the pools, in place. Returns the rotated tokens.
///
/// # Errors
/// Shapes do not fit, or a position is beyond the table.
pub fn rotate_and_write(
    qkv: &Tensor,
    table: &RopeTable,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    heads: Heads,
) -> Result<Tensor> {
    check(qkv, keys, values, layout, heads)?;
    let (positions, half) = table.cos.dims2()?;
    let beyond = layout.host().positions.iter().max();
    ensure!(
        2 * half == heads.dim && beyond.is_none_or(|&last| (last as usize) < positions),
        "attention over pages: angles of {half} for {positions} positions do not fit {heads:?} and position {beyond:?}"
    );
    let _span = profile::span(OpGroup::Rope);
    on_device!(
        qkv.device(),
        rotate_and_write(qkv, table, keys, values, layout, heads)
    )
}

/// Attends with the queries of `qkv` `[T, (Q + 2 KV) D]`, its first part, to the keys and values of their sequences up to their own
/// positions, to `[T, Q D]`. `sinks` and `window` are those of [`attention::forward`](super::attention::forward).
///
/// # Errors
/// Shapes do not fit.
pub fn attend(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    sinks: Option<&Tensor>,
    heads: Heads,
    window: Option<usize>,
) -> Result<Tensor> {
    check(qkv, keys, values, layout, heads)?;
    let sinks = &or_minus_infinity(sinks, heads, qkv)?;
    let _span = profile::span(OpGroup::Attention);
    on_device!(
        qkv.device(),
        attend(qkv, keys, values, layout, sinks, heads, window)
    )
}

fn check(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    heads: Heads,
) -> Result<()> {
    let (rows, width) = keys.dims2()?;
    ensure!(
        qkv.dims() == [layout.tokens(), heads.width()]
            && width == heads.kv * heads.dim
            && values.dims() == keys.dims()
            && rows.is_multiple_of(PAGE)
            && rows >= layout.rows(),
        "attention over pages: rows {:?} and pools of {:?} do not fit {heads:?}, {} tokens and pages up to row {}",
        qkv.dims(),
        keys.dims(),
        layout.tokens(),
        layout.rows()
    );
    Ok(())
}
