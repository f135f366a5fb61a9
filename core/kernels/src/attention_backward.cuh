// Flash attention backward in two passes without atomics, so that equal inputs give equal bits. With lse over keys and
// sink, p = exp(scale*q.k - lse) is exact, and delta = sum(out * dout) already holds the sink's share:
//   dv = p^T dout,  ds = p * (dout v^T - delta),  dk = scale * ds^T q,  dq = scale * ds k,  dsink = -sum(exp(sink - lse) * delta).
// The pass for k and v works on transposed scores: a warp owns keys as rows, so p and ds stay in registers as the left
// operands of both products. The pass for q is its mirror image: a warp owns queries and walks the keys.
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

KERNEL attention_delta(float* __restrict__ delta, const bf16* __restrict__ out, const bf16* __restrict__ dout, int tokens, int q_heads) {
    const i64 i = (i64)blockIdx.x * 128 + threadIdx.x;
    if (i >= (i64)tokens * q_heads) return;
    const uint4* a = reinterpret_cast<const uint4*>(out + i * D);
    const uint4* b = reinterpret_cast<const uint4*>(dout + i * D);
    float sum = 0.f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        float x[8], y[8];
        unpack8(a[c], x);
        unpack8(b[c], y);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += x[e] * y[e];
    }
    delta[(i % q_heads) * tokens + i / q_heads] = sum;
}

KERNEL attention_sink_grad(float* __restrict__ dsinks, const float* __restrict__ lse, const float* __restrict__ delta, const bf16* __restrict__ sinks,
                           int tokens) {
    const i64 head = blockIdx.x;
    const float sink = to_float(sinks[head]);
    float sum = 0.f;
    for (int t = threadIdx.x; t < tokens; t += 256) sum += __expf(sink - lse[head * tokens + t]) * delta[head * tokens + t];
    sum = block_sum(sum);
    if (threadIdx.x == 0) dsinks[head] = -sum;
}

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
