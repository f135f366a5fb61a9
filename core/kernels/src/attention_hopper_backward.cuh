// Attention backward on Hopper: algorithm, arguments and grid of attention_backward_kv.cuh and attention_backward_q.cuh,
// with warpgroup products. A block is two warpgroups of 64 of its own rows. A step starts the products that give the
// scores of its stage and, behind them, those that use up the probabilities of the stage before; these run while the
// new scores are turned into probabilities, so a ring of three stages is in use.
// All products of a step are started together on purpose: with waits in between, ptxas 13.0 gives the registers of
// loop-invariant left operands to other values (seen in the machine code).
#pragma once
#include "attention_backward.cuh"
#include "hopper.cuh"

static_assert(backward::ROWS == 64, "a stage is one right operand");

namespace backward {

constexpr int RING = 3;

} // namespace backward

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_kv(bf16* __restrict__ dk, bf16* __restrict__ dv, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,
                          const u32* __restrict__ cu, int n, int tokens, int stride, int dout_stride, int q_heads, int kv_heads, int window,
                          float scale) {
    using namespace backward;
    __shared__ __align__(1024) uint8_t memory[RING * STAGE_BYTES];
    int sequence, first;
    if (!find_tile(cu, n, tokens, blockIdx.y, sequence, first)) return;
    const int start = cu ? cu[sequence] : 0, count = cu ? cu[sequence + 1] - start : tokens;
    const int kv_head = blockIdx.x, group = q_heads / kv_heads;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 base = shared_address(memory);
    q += (i64)start * stride + kv_head * group * D;
    dout += (i64)start * dout_stride + kv_head * group * D;
    lse += (i64)kv_head * group * tokens + start;
    delta += (i64)kv_head * group * tokens + start;
    const i64 own = (i64)start * stride + kv_head * D;

    u32 ks[MT][KS][4], vs[MT][KS][4];
    own_rows(ks, vs, base, k + own, stride, v + own, stride, first, count);

    const int end = window > 0 ? min(count, min(first + TILE, count) + window - 1) : count; // queries that see a key of the tile
    const int per_head = (end - first + ROWS - 1) / ROWS, steps = per_head * group;
    int next_head = 0, next_row = first;
    u32 next = base;
    float next_lse[2], next_delta[2]; // of queries 2*lane and 2*lane + 1 of the stage
    const auto load = [&]() {
        if (next_head < group) {
            load_tile<ROWS>(next, q + next_head * D, stride, next_row, count);
            load_tile<ROWS>(next + HALF_BYTES, dout + next_head * D, dout_stride, next_row, count);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = next_row + 2 * lane + i;
                next_lse[i] = row < count ? lse[(i64)next_head * tokens + row] * LOG2E : 0.f;
                next_delta[i] = row < count ? delta[(i64)next_head * tokens + row] : 0.f;
            }
            next_row += ROWS;
            if (next_row >= end) next_row = first, next_head++;
            next = next == base + (RING - 1) * STAGE_BYTES ? base : next + STAGE_BYTES;
        }
        commit();
    };
    load();

    float dks[MT][8][4], dvs[MT][8][4], s[8][4], dp[8][4];
    u32 p[4][4] = {}, ds[4][4] = {};
    clear(dks);
    clear(dvs);
    const float scale2 = scale * LOG2E;
    const int low = first + warp * WARP_ROWS, high = low + WARP_ROWS - 1; // the warp's keys
    int query = first;
    u32 stage = base, last = base; // nothing is pending at first: zeros times the first stage
    for (int step = 0; step < steps; step++) {
        wait<0>();
        arrive();
        const float step_lse[2] = {next_lse[0], next_lse[1]}, step_delta[2] = {next_delta[0], next_delta[1]};
        load();
        pin_tiles(dks[0]);
        pin_tiles(dvs[0]);
        wgmma_begin();
        multiply_rows_async(s, ks, stage);
        multiply_rows_async(dp, vs, stage + HALF_BYTES);
        multiply_columns_async(dvs[0], p, last + HALF_BYTES);
        multiply_columns_async(dks[0], ds, last);
        wgmma_wait<2>();
        pin_tiles(s);
        pin_tiles(dp);
#pragma unroll
        for (int t = 0; t < 8; t++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const float l = __shfl_sync(FULL, step_lse[c], t * 4 + lane % 4), d = __shfl_sync(FULL, step_delta[c], t * 4 + lane % 4);
#pragma unroll
                for (int i = c; i < 4; i += 2) {
                    s[t][i] = exp2_fast(fmaf(s[t][i], scale2, -l));
                    dp[t][i] -= d;
                }
            }
        if (query < high || (window > 0 && query + ROWS - 1 - low >= window)) {
#pragma unroll
            for (int i = 0; i < 32; i++) {
                const int at = query + i / 4 * 8 + (lane % 4) * 2 + i % 2, key = low + lane / 4 + i % 4 / 2 * 8;
                if (at < key || (window > 0 && at - key >= window)) s[i / 4][i % 4] = 0.f;
            }
        }
#pragma unroll
        for (int t = 0; t < 8; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) dp[t][i] *= s[t][i];
        wgmma_wait<0>();
        pin_tiles(dks[0]);
        pin_tiles(dvs[0]);
        round_left(p, s);
        round_left(ds, dp);
        last = stage;
        stage = stage == base + (RING - 1) * STAGE_BYTES ? base : stage + STAGE_BYTES;
        query += ROWS;
        if (query >= end) query = first;
    }
    wgmma_begin();
    multiply_columns_async(dvs[0], p, last + HALF_BYTES);
    multiply_columns_async(dks[0], ds, last);
    wgmma_wait<0>();
    pin_tiles(dks[0]);
    pin_tiles(dvs[0]);
    store_rows(dk + own, stride, dks, scale, low, count);
    store_rows(dv + own, stride, dvs, 1.f, low, count);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_q(bf16* __restrict__ dq, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                         const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ cu,
                         int n, int tokens, int stride, int dout_stride, int q_heads, int kv_heads, int window, float scale) {
    using namespace backward;
    __shared__ __align__(1024) uint8_t memory[RING * STAGE_BYTES];
    int sequence, first;
    if (!find_tile(cu, n, tokens, gridDim.y - 1 - blockIdx.y, sequence, first)) return;
    const int start = cu ? cu[sequence] : 0, count = cu ? cu[sequence + 1] - start : tokens;
    const int head = blockIdx.x, kv_head = head / (q_heads / kv_heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 base = shared_address(memory);
    const i64 own = (i64)start * stride + head * D;
    k += (i64)start * stride + kv_head * D;
    v += (i64)start * stride + kv_head * D;

    u32 qs[MT][KS][4], ds[MT][KS][4];
    own_rows(qs, ds, base, q + own, stride, dout + (i64)start * dout_stride + head * D, dout_stride, first, count);

    const int low = first + warp * WARP_ROWS, high = low + WARP_ROWS - 1; // the warp's queries
    float l[2], d[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = low + lane / 4 + h * 8;
        l[h] = row < count ? lse[(i64)head * tokens + start + row] * LOG2E : 0.f;
        d[h] = row < count ? delta[(i64)head * tokens + start + row] : 0.f;
    }

    const int key_end = min(first + TILE, count);
    const int key_begin = window > 0 ? max(0, first - window + 1) / ROWS * ROWS : 0;
    const int steps = (key_end - key_begin + ROWS - 1) / ROWS;
    const auto load = [&](int step) {
        if (step < steps) {
            const u32 stage = base + step % RING * STAGE_BYTES;
            load_tile<ROWS>(stage, k, stride, key_begin + step * ROWS, count);
            load_tile<ROWS>(stage + HALF_BYTES, v, stride, key_begin + step * ROWS, count);
        }
        commit();
    };
    load(0);

    float dqs[MT][8][4], s[8][4], dp[8][4];
    u32 p[4][4] = {};
    clear(dqs);
    const float scale2 = scale * LOG2E;
    u32 last = base; // nothing is pending at first: zeros times the first stage
    for (int step = 0; step < steps; step++) {
        wait<0>();
        arrive();
        load(step + 1);
        const u32 keys = base + step % RING * STAGE_BYTES;
        pin_tiles(dqs[0]);
        wgmma_begin();
        multiply_rows_async(s, qs, keys);
        multiply_rows_async(dp, ds, keys + HALF_BYTES);
        multiply_columns_async(dqs[0], p, last);
        wgmma_wait<1>();
        pin_tiles(s);
        pin_tiles(dp);
        const int key = key_begin + step * ROWS;
        if (key + ROWS - 1 > low || (window > 0 && high - key >= window)) {
#pragma unroll
            for (int i = 0; i < 32; i++) {
                const int at = key + i / 4 * 8 + (lane % 4) * 2 + i % 2, query = low + lane / 4 + i % 4 / 2 * 8;
                if (at > query || (window > 0 && query - at >= window)) s[i / 4][i % 4] = -INFINITY;
            }
        }
#pragma unroll
        for (int t = 0; t < 8; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) dp[t][i] = exp2_fast(fmaf(s[t][i], scale2, -l[i / 2])) * (dp[t][i] - d[i / 2]);
        wgmma_wait<0>();
        pin_tiles(dqs[0]);
        round_left(p, dp);
        last = keys;
    }
    wgmma_begin();
    multiply_columns_async(dqs[0], p, last);
    wgmma_wait<0>();
    pin_tiles(dqs[0]);
    store_rows(dq + own, stride, dqs, scale, low, count);
}
