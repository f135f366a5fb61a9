//! The memory of a step: the largest has all of it, smaller ones its first rows.

use super::inputs::Room;
use super::weights::ModelWeights;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// What a step writes, one row for each token (for `inner` and `down` one for each pair of a token and an expert). All layers use the same.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// The input of a layer, `[R, H]`.
    pub x: Tensor,
    /// A normed input, `[R, H]`.
    pub normed: Tensor,
    /// Queries, keys and values, `[R, (Q + 2 KV) D]`.
    pub qkv: Tensor,
    /// What attention gives, `[R, Q D]`.
    pub attended: Tensor,
    /// That behind the projection, `[R, H]`.
    pub delta: Tensor,
    /// The input of the experts before the norm, `[R, H]`.
    pub middle: Tensor,
    /// The router's logits, `[R, E]` f32.
    pub router: Tensor,
    /// The activations of experts, `[R K, F]`.
    pub inner: Tensor,
    /// The outputs of experts, `[R K, H]` f32.
    pub down: Tensor,
    /// `[R, V]` f32.
    pub logits: Tensor,
    choices: usize,
}

impl Buffers {
    /// Memory for the largest step.
    pub fn new(
        weights: &ModelWeights,
        most: Room,
        (dtype, device): (DType, &Device),
    ) -> Result<Self> {
        let layer = &weights.layers[0];
        let hidden = layer.output.outputs();
        let (rows, choices) = (most.rows, layer.experts_per_token);
        let of = |rows: usize, width: usize, dtype| Tensor::zeros((rows, width), dtype, device);
        let heads = layer.heads;
        Ok(Self {
            x: of(rows, hidden, dtype)?,
            normed: of(rows, hidden, dtype)?,
            qkv: of(rows, heads.width(), dtype)?,
            attended: of(rows, heads.q * heads.dim, dtype)?,
            delta: of(rows, hidden, dtype)?,
            middle: of(rows, hidden, dtype)?,
            router: of(rows, layer.experts, DType::F32)?,
            inner: of(rows * choices, layer.gate_up.outputs / 2, dtype)?,
            down: of(rows * choices, hidden, DType::F32)?,
            logits: of(rows, weights.head.outputs(), DType::F32)?,
            choices,
        })
    }

    /// That of a smaller step.
    pub fn of(&self, room: Room) -> Result<Self> {
        let one = |tensor: &Tensor| tensor.narrow(0, 0, room.rows);
        let each = |tensor: &Tensor| tensor.narrow(0, 0, room.rows * self.choices);
        Ok(Self {
            x: one(&self.x)?,
            normed: one(&self.normed)?,
            qkv: one(&self.qkv)?,
            attended: one(&self.attended)?,
            delta: one(&self.delta)?,
            middle: one(&self.middle)?,
            router: one(&self.router)?,
            inner: each(&self.inner)?,
            down: each(&self.down)?,
            logits: one(&self.logits)?,
            choices: self.choices,
        })
    }
}
