// Attention backward for k and v: a block owns TILE keys and walks the queries that see them, head after head of its
// group, so dk and dv are summed over the group in registers.
#pragma once
#include "attention_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_kv(bf16* __restrict__ dk, bf16* __restrict__ dv, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,
                          const u32* __restrict__ cu, int n, int tokens, int stride, int dout_stride, int q_heads, int kv_heads, int window,
                          float scale) {
    using namespace backward;
    __shared__ __align__(256) uint8_t memory[MEMORY];
    __shared__ float statistics[STAGES][2][ROWS];
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
    int next = 0, next_head = 0, next_row = first;
    const auto load = [&]() {
        if (next_head < group) {
            const u32 stage = base + next * STAGE_BYTES;
            load_tile<ROWS>(stage, q + next_head * D, stride, next_row, count);
            load_tile<ROWS>(stage + HALF_BYTES, dout + next_head * D, dout_stride, next_row, count);
            if (threadIdx.x < 2 * ROWS) {
                const int row = next_row + threadIdx.x % ROWS;
                const float* from = threadIdx.x < ROWS ? lse : delta;
                copy4(shared_address(&statistics[next][0][0]) + threadIdx.x * 4, from + (row < count ? (i64)next_head * tokens + row : 0), row < count);
            }
            next_row += ROWS;
            if (next_row >= end) next_row = first, next_head++;
            next = next + 1 == STAGES ? 0 : next + 1;
        }
        commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) load();

    float dks[MT][D / 8][4], dvs[MT][D / 8][4];
    clear(dks);
    clear(dvs);
    const float scale2 = scale * LOG2E;
    const int low = first + warp * WARP_ROWS, high = low + WARP_ROWS - 1; // the warp's keys
    int row = first, slot = 0;
    for (int step = 0; step < steps; step++) {
        wait<STAGES - 2>();
        __syncthreads();
        load();
        const u32 stage = base + slot * STAGE_BYTES;
        const Reader qr = right_reader(stage), dr = right_reader(stage + HALF_BYTES);
        const Reader qt = transposed_reader(stage), dt = transposed_reader(stage + HALF_BYTES);
#pragma unroll
        for (int c = 0; c < ROWS; c += 16) {
            const int query = row + c;
            if (query + 15 < low || (window > 0 && query - high >= window)) continue;
            float s[MT][2][4];
            clear(s);
            multiply_rows(s, ks, qr, c);
            float2 l[2], d[2];
#pragma unroll
            for (int t = 0; t < 2; t++) {
                l[t] = *reinterpret_cast<const float2*>(&statistics[slot][0][c + t * 8 + (lane % 4) * 2]);
                d[t] = *reinterpret_cast<const float2*>(&statistics[slot][1][c + t * 8 + (lane % 4) * 2]);
                l[t].x *= LOG2E, l[t].y *= LOG2E;
            }
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int t = 0; t < 2; t++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][t][i] = exp2_fast(fmaf(s[m][t][i], scale2, -(i % 2 ? l[t].y : l[t].x)));
            if (query < high || (window > 0 && query + 15 - low >= window)) {
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        const int key = low + m * 16 + lane / 4 + (i % 4 / 2) * 8;
                        const int at = query + (i / 4) * 8 + (lane % 4) * 2 + i % 2;
                        if (at < key || (window > 0 && at - key >= window)) s[m][i / 4][i % 4] = 0.f;
                    }
            }
            u32 p[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) to_left(p[m], s[m][0], s[m][1]);
            multiply_columns(dvs, p, dt, c);
            float dp[MT][2][4];
            clear(dp);
            multiply_rows(dp, vs, dr, c);
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int t = 0; t < 2; t++)
#pragma unroll
                    for (int i = 0; i < 4; i++) dp[m][t][i] = s[m][t][i] * (dp[m][t][i] - (i % 2 ? d[t].y : d[t].x));
                to_left(p[m], dp[m][0], dp[m][1]);
            }
            multiply_columns(dks, p, qt, c);
        }
        row += ROWS;
        if (row >= end) row = first;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    store_rows(dk + own, stride, dks, scale, low, count);
    store_rows(dv + own, stride, dvs, 1.f, low, count);
}
