// Attention of one query a sequence to keys and values in pages, for decoding. Bound by reading the cache: the query heads of a key head
// (up to ROWS of them) share one read, and tensor-core operands are built of 16-byte reads in registers. mma may take the 16 inner
// indices in any order as long as both operands agree: scores are Q K^T of a row's bytes as they come, and what a lane then holds of
// them is the right operand of V^T P^T.
//
// The keys of a sequence are split over blocks by its own length alone, so a row has the same bits in any batch. The block of a
// sequence and key head that is done last merges the splits, in order.
#pragma once
#include "attention.cuh"

constexpr int PAGE = 16;            // positions a page
constexpr int SHORT_SPAN = 384;     // positions up to which one block takes all keys
constexpr int FEW_SPLITS = 8;
constexpr int MOST_SPLITS = 32;
constexpr int LEAST_SPLIT = 256;
constexpr int USUAL_SPLIT = 512;

namespace paged {

constexpr int ROWS = 8;                         // query heads of a block
constexpr int TURN = D <= 64 ? 2 : 1;           // pages a warp reads at a time
constexpr int K_WORDS = D / 8;                  // words of a key that a lane holds
constexpr int V_WORDS = D / 16;                 // words of a value
constexpr int PITCH = D + 2;                    // floats of a row in shared memory
constexpr int OUT = ROWS * D / THREADS;         // neighbouring elements of the result that a thread merges

struct Memory {
    union {
        float values[WARPS][ROWS][PITCH];
        float factors[ROWS][MOST_SPLITS];
    };
    float tops[WARPS][ROWS], sums[WARPS][ROWS];
    bool last;
};

__device__ __forceinline__ int up64(int count, int parts) { return ((count + parts - 1) / parts + 63) / 64 * 64; }

// Positions a split, of a sequence with `span` visible positions from the start of a page on.
__device__ __forceinline__ int split_size(int span) {
    if (span <= SHORT_SPAN) return SHORT_SPAN;
    return max(min(max(up64(span, FEW_SPLITS), LEAST_SPLIT), USUAL_SPLIT), up64(span, MOST_SPLITS));
}

// The first of two dims that word t of a value row stands for.
__device__ __forceinline__ int value_dim(int t) {
    const int group = threadIdx.x % 32 / 4;
    return t / 4 * 64 + group * (D < 64 ? 2 * V_WORDS : 8) + 2 * (t % 4);
}

__device__ __forceinline__ void load_key(u32 (&w)[K_WORDS], const bf16* row) {
    const int q = threadIdx.x % 4;
    if constexpr (D >= 32) {
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const uint4 v = *reinterpret_cast<const uint4*>(row + i * 32 + q * 8);
            w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
        }
    } else {
        const uint2 v = *reinterpret_cast<const uint2*>(row + q * 4);
        w[0] = v.x, w[1] = v.y;
    }
}

__device__ __forceinline__ void load_value(u32 (&w)[V_WORDS], const bf16* row) {
    row += value_dim(0);
    if constexpr (D >= 64) {
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            const uint4 v = *reinterpret_cast<const uint4*>(row + i * 64);
            w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
        }
    } else if constexpr (D == 32) {
        const uint2 v = *reinterpret_cast<const uint2*>(row);
        w[0] = v.x, w[1] = v.y;
    } else {
        w[0] = *reinterpret_cast<const u32*>(row);
    }
}

// What a warp knows of its keys: maxima (base 2) and sums of the query of this lane's group, values of queries 2 q and 2 q + 1.
struct Running {
    float top = -1e30f, sum = 0.f, values[V_WORDS][4] = {};
};

// Keys at..at + TURN * PAGE of which those in begin..end are visible; `at` is the start of a page.
__device__ __forceinline__ void take(Running& state, const u32 (&query)[K_WORDS], const bf16* keys, const bf16* values, const u32* table, i64 stride, int at,
                                     int begin, int end, float scale) {
    const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4, last_page = (end - 1) / PAGE;
    u32 k[TURN][2][K_WORDS], v[TURN][4][V_WORDS];
#pragma unroll
    for (int p = 0; p < TURN; p++) {
        const int page = min(at / PAGE + p, last_page);
        const int low = max(begin - page * PAGE, 0), high = min(end - 1 - page * PAGE, PAGE - 1); // rows that are written
        const i64 first = (i64)table[page] * PAGE;
        const auto row = [&](int r) { return (first + min(max(r, low), high)) * stride; };
#pragma unroll
        for (int n = 0; n < 2; n++) load_key(k[p][n], keys + row(8 * n + g));
#pragma unroll
        for (int i = 0; i < 4; i++) load_value(v[p][i], values + row(2 * q + i % 2 + i / 2 * 8));
    }
    float score[TURN][2][4], top = state.top;
#pragma unroll
    for (int p = 0; p < TURN; p++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float(&c)[4] = score[p][n];
            c[0] = c[1] = c[2] = c[3] = 0.f;
#pragma unroll
            for (int s = 0; s < KS; s++) {
                const u32 a[4] = {query[2 * s], 0, query[2 * s + 1], 0};
                mma(c, a, k[p][n][2 * s], k[p][n][2 * s + 1]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int key = at + p * PAGE + n * 8 + 2 * q + i;
                c[i] = key >= begin && key < end ? c[i] * scale : -INFINITY;
                top = fmaxf(top, c[i]);
            }
        }
    top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
    top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
    const float shrink = exp2_fast(state.top - top);
    state.top = top, state.sum *= shrink;
    const float even = __shfl_sync(FULL, shrink, 8 * q), odd = __shfl_sync(FULL, shrink, 8 * q + 4);
#pragma unroll
    for (int t = 0; t < V_WORDS; t++)
        state.values[t][0] *= even, state.values[t][1] *= odd, state.values[t][2] *= even, state.values[t][3] *= odd;
#pragma unroll
    for (int p = 0; p < TURN; p++) {
        u32 b[2];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float low = exp2_fast(score[p][n][0] - top), high = exp2_fast(score[p][n][1] - top);
            state.sum += low + high;
            b[n] = pack2(low, high);
        }
#pragma unroll
        for (int t = 0; t < V_WORDS; t++) {
            const u32 a[4] = {__byte_perm(v[p][0][t], v[p][1][t], 0x5410), __byte_perm(v[p][0][t], v[p][1][t], 0x7632),
                              __byte_perm(v[p][2][t], v[p][3][t], 0x5410), __byte_perm(v[p][2][t], v[p][3][t], 0x7632)};
            mma(state.values[t], a, b[0], b[1]);
        }
    }
}

// Puts what the warps know into shared memory; the block may read it after the barrier at the end.
__device__ __forceinline__ void gather(Memory& memory, const Running& state) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    float sum = state.sum;
    sum += __shfl_xor_sync(FULL, sum, 1);
    sum += __shfl_xor_sync(FULL, sum, 2);
    if (q == 0) memory.tops[warp][g] = state.top, memory.sums[warp][g] = sum;
#pragma unroll
    for (int t = 0; t < V_WORDS; t++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            *reinterpret_cast<float2*>(&memory.values[warp][2 * q + i][value_dim(t)]) = make_float2(state.values[t][i], state.values[t][i + 2]);
    __syncthreads();
}

__device__ __forceinline__ void read_far(float (&f)[OUT], const float* p) {
    if constexpr (OUT >= 4) {
#pragma unroll
        for (int i = 0; i < OUT / 4; i++) {
            const float4 v = __ldcg(reinterpret_cast<const float4*>(p) + i);
            f[4 * i] = v.x, f[4 * i + 1] = v.y, f[4 * i + 2] = v.z, f[4 * i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < OUT; i++) f[i] = __ldcg(p + i);
    }
}

} // namespace paged

KERNEL __launch_bounds__(THREADS, D <= 64 ? 4 : 3)
paged_attention(bf16* __restrict__ out, float* partial, float* weights, u32* done, const bf16* __restrict__ q, const bf16* __restrict__ keys,
                const bf16* __restrict__ values, const bf16* __restrict__ sinks, const u32* __restrict__ table, const u32* __restrict__ lengths,
                int pages, int q_stride, int q_heads, int kv_heads, int window, int most_splits, float scale) {
    using namespace paged;
    __shared__ Memory memory;
    const int sequence = blockIdx.z, group = q_heads / kv_heads, parts = (group + ROWS - 1) / ROWS;
    const int kv_head = blockIdx.x / parts, first_head = kv_head * group + blockIdx.x % parts * ROWS;
    const int heads = min(ROWS, (kv_head + 1) * group - first_head);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = threadIdx.x * OUT / D, column = threadIdx.x * OUT % D; // what this thread merges
    const int end = lengths[sequence], begin = window > 0 ? max(0, end - window) : 0, start = begin / PAGE * PAGE;
    out += ((i64)sequence * q_heads + first_head + row) * D + column;
    if (end == 0) {
        if (blockIdx.y == 0 && row < heads)
            for (int i = 0; i < OUT; i++) out[i] = from_float<bf16>(0.f);
        return;
    }
    const int size = split_size(end - start), splits = (end - start + size - 1) / size, takers = min(splits, (int)gridDim.y);
    if (blockIdx.y >= takers) return;

    u32 query[K_WORDS] = {};
    if (lane / 4 < heads) load_key(query, q + (i64)sequence * q_stride + (first_head + lane / 4) * D);
    const i64 stride = (i64)kv_heads * D;
    keys += kv_head * D, values += kv_head * D, table += (i64)sequence * pages;
    const i64 result = ((i64)sequence * q_heads + first_head + row) * most_splits;
    const float sink = row < heads ? to_float(sinks[first_head + row]) * LOG2E : 0.f;
    for (int split = blockIdx.y; split < splits; split += takers) {
        const int first = start + split * size, last = min(end, first + size);
        Running state;
        for (int at = first + warp * TURN * PAGE; at < last; at += WARPS * TURN * PAGE)
            take(state, query, keys, values, table, stride, at, begin, last, scale * LOG2E);
        gather(memory, state);
        float best = splits == 1 ? fmaxf(sink, -1e30f) : -1e30f, total = 0.f, value[OUT] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) best = fmaxf(best, memory.tops[w][row]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float weight = exp2_fast(memory.tops[w][row] - best);
            total += memory.sums[w][row] * weight;
#pragma unroll
            for (int i = 0; i < OUT; i++) value[i] += memory.values[w][row][column + i] * weight;
        }
        if (row < heads) {
            if (splits == 1) total += exp2_fast(sink - best);
#pragma unroll
            for (int i = 0; i < OUT; i++) {
                if (splits == 1) out[i] = from_float<bf16>(value[i] / total);
                else partial[(result + split) * D + column + i] = value[i];
            }
            if (splits > 1 && column == 0) weights[2 * (result + split)] = best, weights[2 * (result + split) + 1] = total;
        }
        __syncthreads();
    }
    if (splits == 1) return;

    __threadfence();
    __syncthreads();
    u32* count = done + sequence * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) {
        memory.last = atomicAdd(count, 1) == takers - 1;
        if (memory.last) *count = 0;
    }
    __syncthreads();
    if (!memory.last) return;
    __threadfence();
    // Lanes of a row share its splits: their weights, divided by the sum.
    constexpr int SHARE = THREADS / ROWS;
    const int at = threadIdx.x / SHARE, share = threadIdx.x % SHARE;
    const i64 own = ((i64)sequence * q_heads + first_head + at) * most_splits;
    const float own_sink = at < heads ? to_float(sinks[first_head + at]) * LOG2E : 0.f;
    float tops[MOST_SPLITS / SHARE], sums[MOST_SPLITS / SHARE], best = fmaxf(own_sink, -1e30f), total = 0.f;
#pragma unroll
    for (int i = 0; i < MOST_SPLITS / SHARE; i++) {
        const bool there = at < heads && share + i * SHARE < splits;
        tops[i] = there ? __ldcg(weights + 2 * (own + share + i * SHARE)) : -1e30f;
        sums[i] = there ? __ldcg(weights + 2 * (own + share + i * SHARE) + 1) : 0.f;
        best = fmaxf(best, tops[i]);
    }
#pragma unroll
    for (int o = SHARE / 2; o > 0; o >>= 1) best = fmaxf(best, __shfl_xor_sync(FULL, best, o));
#pragma unroll
    for (int i = 0; i < MOST_SPLITS / SHARE; i++) total += sums[i] * exp2_fast(tops[i] - best);
#pragma unroll
    for (int o = SHARE / 2; o > 0; o >>= 1) total += __shfl_xor_sync(FULL, total, o);
    total += exp2_fast(own_sink - best);
#pragma unroll
    for (int i = 0; i < MOST_SPLITS / SHARE; i++) memory.factors[at][share + i * SHARE] = exp2_fast(tops[i] - best) / total;
    __syncthreads();
    if (row >= heads) return;
    float value[OUT] = {};
#pragma unroll 8
    for (int split = 0; split < splits; split++) {
        float f[OUT];
        read_far(f, partial + (result + split) * D + column);
#pragma unroll
        for (int i = 0; i < OUT; i++) value[i] += f[i] * memory.factors[row][split];
    }
#pragma unroll
    for (int i = 0; i < OUT; i++) out[i] = from_float<bf16>(value[i]);
}
