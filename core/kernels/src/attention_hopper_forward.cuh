// Attention forward on Hopper: algorithm, arguments and grid of attention_forward.cuh. A block is two warpgroups of 64
// queries each. While the scores of the next 64 keys and the values of the last ones are multiplied, a warpgroup turns
// the scores that have arrived into probabilities (the pipelining of FlashAttention-3, Shah et al. 2024).
#pragma once
#include "hopper.cuh"

namespace forward {

constexpr int KEYS = 64; // keys a stage
constexpr int STAGES = 3;
constexpr int KV_BYTES = KEYS * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * KV_BYTES;
static_assert(TILE * ROW_BYTES == STAGE_BYTES, "queries are staged in the last stage");

} // namespace forward

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_forward(bf16* __restrict__ out, float* __restrict__ lse, const bf16* __restrict__ q, const bf16* __restrict__ k,
                      const bf16* __restrict__ v, const bf16* __restrict__ sinks, const u32* __restrict__ cu_q, const u32* __restrict__ cu_k, int n,
                      int total_q, int total_k, int q_stride, int kv_stride, int out_stride, int q_heads, int kv_heads, int window, float scale) {
    using namespace forward;
    __shared__ __align__(1024) uint8_t memory[STAGES * STAGE_BYTES];
    int sequence, first;
    if (!find_tile(cu_q, n, total_q, gridDim.y - 1 - blockIdx.y, sequence, first)) return;
    const int q_start = cu_q ? cu_q[sequence] : 0, k_start = cu_k ? cu_k[sequence] : 0;
    const int q_count = cu_q ? cu_q[sequence + 1] - q_start : total_q, k_count = cu_k ? cu_k[sequence + 1] - k_start : total_k;
    const int shift = k_count - q_count; // position of query 0
    const int head = blockIdx.x, kv_head = head / (q_heads / kv_heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    q += (i64)q_start * q_stride + head * D;
    k += (i64)k_start * kv_stride + kv_head * D;
    v += (i64)k_start * kv_stride + kv_head * D;

    const int key_end = min(first + TILE, q_count) + shift;
    const int key_begin = window > 0 ? max(0, first + shift - window + 1) / KEYS * KEYS : 0;
    const int blocks = (max(key_end - key_begin, 0) + KEYS - 1) / KEYS;
    const u32 base = shared_address(memory);
    const auto load = [&](int block) {
        if (block < blocks) {
            const u32 stage = base + (block % STAGES) * STAGE_BYTES;
            load_tile<KEYS>(stage, k, kv_stride, key_begin + block * KEYS, k_count);
            load_tile<KEYS>(stage + KV_BYTES, v, kv_stride, key_begin + block * KEYS, k_count);
        }
        commit();
    };
    load_tile<TILE>(base + 2 * STAGE_BYTES, q, q_stride, first, q_count);
    commit();
    load(0);
    load(1);
    wait<2>();
    __syncthreads();
    u32 qs[MT][KS][4];
    read_left(qs, base + 2 * STAGE_BYTES);

    const float scale2 = scale * LOG2E, sink = to_float(sinks[head]) * LOG2E;
    const float start = fmaxf(sink, -1e30f); // a sink of -inf is no sink
    float top[2] = {start, start}, sum[2], shrink[2], s[8][4], acc[8][4];
    sum[0] = sum[1] = lane % 4 == 0 ? exp2_fast(sink - start) : 0.f;
    u32 p[4][4];
#pragma unroll
    for (int t = 0; t < 8; t++) acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0.f;
    const int low = first + warp * WARP_ROWS + shift, high = low + WARP_ROWS - 1; // positions of the warp's queries

    // Scores to probabilities, in place; `shrink` is what older sums and values are to be multiplied by.
    const auto softmax = [&](int key) {
        if (key + KEYS - 1 > low || (window > 0 && key <= high - window)) {
#pragma unroll
            for (int i = 0; i < 32; i++) {
                const int at = key + i / 4 * 8 + (lane % 4) * 2 + i % 2, position = low + lane / 4 + i % 4 / 2 * 8;
                if (at > position || (window > 0 && at <= position - window)) s[i / 4][i % 4] = -INFINITY;
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float best = -INFINITY;
#pragma unroll
            for (int t = 0; t < 8; t++) best = fmaxf(best, fmaxf(s[t][2 * h], s[t][2 * h + 1]));
            best = fmaxf(best, __shfl_xor_sync(FULL, best, 1));
            best = fmaxf(best, __shfl_xor_sync(FULL, best, 2));
            const float next = fmaxf(top[h], best * scale2);
            shrink[h] = exp2_fast(top[h] - next);
            top[h] = next;
            float part = 0.f;
#pragma unroll
            for (int t = 0; t < 8; t++)
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    s[t][i] = exp2_fast(fmaf(s[t][i], scale2, -next));
                    part += s[t][i];
                }
            sum[h] = sum[h] * shrink[h] + part;
        }
    };

    if (blocks > 0) {
        wait<1>();
        arrive();
        wgmma_begin();
        multiply_rows_async(s, qs, base);
        wgmma_wait<0>();
        pin_tiles(s);
        softmax(key_begin);
        round_left(p, s);
    }
    for (int block = 0; block + 1 < blocks; block++) {
        wait<0>();
        arrive(); // the next keys and values are there, and nobody reads the stage before this one any more
        load(block + 2);
        pin_tiles(s);
        pin_tiles(acc);
        wgmma_begin();
        multiply_rows_async(s, qs, base + (block + 1) % STAGES * STAGE_BYTES);
        multiply_columns_async(acc, p, base + block % STAGES * STAGE_BYTES + KV_BYTES);
        wgmma_wait<1>();
        pin_tiles(s);
        softmax(key_begin + (block + 1) * KEYS);
        wgmma_wait<0>();
        pin_tiles(acc);
        if (__any_sync(FULL, shrink[0] < 1.f || shrink[1] < 1.f)) {
#pragma unroll
            for (int t = 0; t < 8; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) acc[t][i] *= shrink[i / 2];
        }
        round_left(p, s);
    }
    if (blocks > 0) {
        pin_tiles(acc);
        wgmma_begin();
        multiply_columns_async(acc, p, base + (blocks - 1) % STAGES * STAGE_BYTES + KV_BYTES);
        wgmma_wait<0>();
        pin_tiles(acc);
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(FULL, total, 1);
        total += __shfl_xor_sync(FULL, total, 2);
        const int row = first + warp * WARP_ROWS + lane / 4 + h * 8;
        if (row >= q_count) continue;
        const float inverse = 1.f / total;
        bf16* to = out + (i64)(q_start + row) * out_stride + head * D + (lane % 4) * 2;
#pragma unroll
        for (int t = 0; t < 8; t++) *reinterpret_cast<u32*>(to + t * 8) = pack2(acc[t][2 * h] * inverse, acc[t][2 * h + 1] * inverse);
        if (lse && lane % 4 == 0) lse[(i64)head * total_q + q_start + row] = (top[h] + log2f(total)) * LN2;
    }
}
