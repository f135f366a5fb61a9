// Attention backward for q: a block owns TILE queries of one head and walks the keys they see.
#pragma once
#include "attention_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_q(bf16* __restrict__ dq, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                         const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ cu,
                         int n, int tokens, int stride, int dout_stride, int q_heads, int kv_heads, int window, float scale) {
    using namespace backward;
    __shared__ __align__(256) uint8_t memory[MEMORY];
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
    float l[MT][2], d[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = low + m * 16 + lane / 4 + h * 8;
            l[m][h] = row < count ? lse[(i64)head * tokens + start + row] * LOG2E : 0.f;
            d[m][h] = row < count ? delta[(i64)head * tokens + start + row] : 0.f;
        }

    const int key_end = min(first + TILE, count);
    const int key_begin = window > 0 ? max(0, first - window + 1) / ROWS * ROWS : 0;
    const int steps = (key_end - key_begin + ROWS - 1) / ROWS;
    const auto load = [&](int step) {
        if (step < steps) {
            const u32 stage = base + (step % STAGES) * STAGE_BYTES;
            load_tile<ROWS>(stage, k, stride, key_begin + step * ROWS, count);
            load_tile<ROWS>(stage + HALF_BYTES, v, stride, key_begin + step * ROWS, count);
        }
        commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) load(i);

    float dqs[MT][D / 8][4];
    clear(dqs);
    const float scale2 = scale * LOG2E;
    for (int step = 0; step < steps; step++) {
        wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1);
        const u32 stage = base + (step % STAGES) * STAGE_BYTES;
        const Reader kr = right_reader(stage), vr = right_reader(stage + HALF_BYTES), kt = transposed_reader(stage);
#pragma unroll
        for (int c = 0; c < ROWS; c += 16) {
            const int key = key_begin + step * ROWS + c;
            if (key > high || (window > 0 && low - (key + 15) >= window)) continue;
            float s[MT][2][4], dp[MT][2][4];
            clear(s);
            clear(dp);
            multiply_rows(s, qs, kr, c);
            multiply_rows(dp, ds, vr, c);
            if (key + 15 > low || (window > 0 && high - key >= window)) {
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        const int at = key + (i / 4) * 8 + (lane % 4) * 2 + i % 2;
                        const int query = low + m * 16 + lane / 4 + (i % 4 / 2) * 8;
                        if (at > query || (window > 0 && query - at >= window)) s[m][i / 4][i % 4] = -INFINITY;
                    }
            }
            u32 p[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int t = 0; t < 2; t++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        dp[m][t][i] = exp2_fast(fmaf(s[m][t][i], scale2, -l[m][i / 2])) * (dp[m][t][i] - d[m][i / 2]);
                to_left(p[m], dp[m][0], dp[m][1]);
            }
            multiply_columns(dqs, p, kt, c);
        }
    }
    store_rows(dq + own, stride, dqs, scale, low, count);
}
