// Flash attention backward in two passes without atomics, so that equal inputs give equal bits. With lse over keys and
// sink, p = exp(scale*q.k - lse) is exact, and delta = sum(out * dout) already holds the sink's share:
//   dv = p^T dout,  ds = p * (dout v^T - delta),  dk = scale * ds^T q,  dq = scale * ds k,  dsink = -sum(exp(sink - lse) * delta).
// The pass for k and v works on transposed scores: a warp owns keys as rows, so p and ds stay in registers as the left
// operands of both products. The pass for q is its mirror image: a warp owns queries and walks the keys.
// This file holds what the passes share.
#pragma once
#include "attention.cuh"

namespace backward {

constexpr int ROWS = D <= 64 ? 64 : 32; // rows a stage: of q and dout for k and v, of k and v for q
constexpr int STAGES = 2;
constexpr int HALF_BYTES = ROWS * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * HALF_BYTES;
constexpr int MEMORY = STAGES * STAGE_BYTES;
static_assert(2 * TILE * ROW_BYTES <= MEMORY, "the block's own rows are staged first");

// Both operands of a block's own rows into registers, through the stages' memory.
__device__ __forceinline__ void own_rows(u32 (&a)[MT][KS][4], u32 (&b)[MT][KS][4], u32 base, const bf16* from_a, i64 stride_a, const bf16* from_b,
                                         i64 stride_b, int first, int count) {
    load_tile<TILE>(base, from_a, stride_a, first, count);
    load_tile<TILE>(base + TILE * ROW_BYTES, from_b, stride_b, first, count);
    commit();
    wait<0>();
    __syncthreads();
    read_left(a, base);
    read_left(b, base + TILE * ROW_BYTES);
    __syncthreads();
}

__device__ __forceinline__ void store_rows(bf16* to, i64 stride, const float (&c)[MT][D / 8][4], float scale, int row, int count) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = row + m * 16 + lane / 4 + h * 8;
            if (r >= count) continue;
#pragma unroll
            for (int t = 0; t < D / 8; t++)
                *reinterpret_cast<u32*>(to + r * stride + t * 8 + (lane % 4) * 2) = pack2(c[m][t][2 * h] * scale, c[m][t][2 * h + 1] * scale);
        }
}

} // namespace backward
