// Flash attention forward (Dao 2023) with a sink a head: the running softmax starts at the sink's logit with sum 1, so
// the sink takes part in the maximum, the sum and lse but adds no value. A block owns TILE queries of one head; keys
// and values stream through three shared-memory stages; key blocks no query of the tile sees are never loaded.
#pragma once
#include "attention.cuh"

namespace forward {

constexpr int KEYS = D <= 64 ? 64 : 32; // keys a stage
constexpr int STAGES = 3;
constexpr int KV_BYTES = KEYS * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * KV_BYTES;
static_assert(TILE * ROW_BYTES <= STAGE_BYTES, "queries are staged in the last stage");
constexpr int BLOCKS_PER_SM = 2;

} // namespace forward

extern "C" __global__ void __launch_bounds__(THREADS, forward::BLOCKS_PER_SM)
    attention_forward(bf16* __restrict__ out, float* __restrict__ lse, const bf16* __restrict__ q, const bf16* __restrict__ k,
                      const bf16* __restrict__ v, const bf16* __restrict__ sinks, const u32* __restrict__ cu_q, const u32* __restrict__ cu_k, int n,
                      int total_q, int total_k, int q_stride, int kv_stride, int out_stride, int q_heads, int kv_heads, int window, float scale) {
    using namespace forward;
    __shared__ __align__(256) uint8_t memory[STAGES * STAGE_BYTES];
    int sequence, first;
    // the longest rows of a causal sequence are its last: start with them
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
    float top[MT][2], sum[MT][2], acc[MT][D / 8][4];
    clear(acc);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            top[m][h] = start;
            sum[m][h] = lane % 4 == 0 ? exp2_fast(sink - start) : 0.f;
        }

    const int low = first + warp * WARP_ROWS + shift, high = low + WARP_ROWS - 1; // positions of the warp's queries
    for (int block = 0; block < blocks; block++) {
        wait<1>();
        __syncthreads();
        load(block + 2);
        const int key = key_begin + block * KEYS;
        if (key > high || (window > 0 && key + KEYS <= low - window + 1)) continue;
        const u32 stage = base + (block % STAGES) * STAGE_BYTES;
        const Reader ks = right_reader(stage), vs = transposed_reader(stage + KV_BYTES);

        float s[KEYS / 16][MT][2][4];
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            clear(s[j]);
            multiply_rows(s[j], qs, ks, j * 16);
        }
        if (key + KEYS - 1 > low || (window > 0 && key <= high - window)) {
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        const int at = key + j * 16 + (i / 4) * 8 + (lane % 4) * 2 + i % 2;
                        const int position = low + m * 16 + lane / 4 + (i % 4 / 2) * 8;
                        if (at > position || (window > 0 && at <= position - window)) s[j][m][i / 4][i % 4] = -INFINITY;
                    }
        }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float best = -INFINITY;
#pragma unroll
                for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
                    for (int t = 0; t < 2; t++) best = fmaxf(best, fmaxf(s[j][m][t][2 * h], s[j][m][t][2 * h + 1]));
                best = fmaxf(best, __shfl_xor_sync(FULL, best, 1));
                best = fmaxf(best, __shfl_xor_sync(FULL, best, 2));
                const float next = fmaxf(top[m][h], best * scale2);
                if (__any_sync(FULL, next > top[m][h])) {
                    const float shrink = exp2_fast(top[m][h] - next);
                    sum[m][h] *= shrink;
                    top[m][h] = next;
#pragma unroll
                    for (int t = 0; t < D / 8; t++) acc[m][t][2 * h] *= shrink, acc[m][t][2 * h + 1] *= shrink;
                }
                float part = 0.f;
#pragma unroll
                for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
                    for (int t = 0; t < 2; t++)
#pragma unroll
                        for (int i = 2 * h; i < 2 * h + 2; i++) {
                            s[j][m][t][i] = exp2_fast(fmaf(s[j][m][t][i], scale2, -next));
                            part += s[j][m][t][i];
                        }
                sum[m][h] += part;
            }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            u32 p[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) to_left(p[m], s[j][m][0], s[j][m][1]);
            multiply_columns(acc, p, vs, j * 16);
        }
    }

#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += __shfl_xor_sync(FULL, total, 1);
            total += __shfl_xor_sync(FULL, total, 2);
            const int row = first + warp * WARP_ROWS + m * 16 + lane / 4 + h * 8;
            if (row >= q_count) continue;
            const float inverse = 1.f / total;
            bf16* to = out + (i64)(q_start + row) * out_stride + head * D + (lane % 4) * 2;
#pragma unroll
            for (int t = 0; t < D / 8; t++)
                *reinterpret_cast<u32*>(to + t * 8) = pack2(acc[m][t][2 * h] * inverse, acc[m][t][2 * h + 1] * inverse);
            if (lse && lane % 4 == 0) lse[(i64)head * total_q + q_start + row] = (top[m][h] + log2f(total)) * LN2;
        }
}
