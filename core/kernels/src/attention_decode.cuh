// Attention for generation: a few queries against a long cache. The keys of a query are split over blocks; inside a
// block, groups of lanes take keys in turn, each with its own running softmax, merged at the end. A second kernel
// merges the splits and brings in the sink. Bound by the reading of the cache.
#pragma once
#include "attention.cuh"

namespace decode {

constexpr int LANES = CHUNKS;             // lanes that share a key
constexpr int GROUPS = THREADS / LANES;   // keys in flight in a block
constexpr int BATCH = 4;                  // keys a group loads before it uses one

} // namespace decode

KERNEL attention_decode(float* __restrict__ partial, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, int q_len,
                        int k_len, int q_stride, int kv_stride, int q_heads, int kv_heads, int window, float scale, int splits) {
    using namespace decode;
    __shared__ float tops[GROUPS], sums[GROUPS], values[GROUPS][D];
    const int head = blockIdx.x, query = blockIdx.z, kv_head = head / (q_heads / kv_heads);
    const int group = threadIdx.x / LANES, chunk = threadIdx.x % LANES;
    const int end = k_len - q_len + query + 1, begin = window > 0 ? max(0, end - window) : 0;
    const int share = (end - begin + splits - 1) / splits;
    const int first = begin + blockIdx.y * share, last = min(end, first + share);

    float qs[8], acc[8] = {}, top = -1e30f, sum = 0.f;
    unpack8(reinterpret_cast<const uint4*>(q + (i64)query * q_stride + head * D)[chunk], qs);
#pragma unroll
    for (int e = 0; e < 8; e++) qs[e] *= scale * LOG2E;
    for (int base = first; base < last; base += GROUPS * BATCH) { // the same count for every lane: shuffles inside
        uint4 kw[BATCH], vw[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const i64 at = (i64)min(base + b * GROUPS + group, last - 1) * kv_stride + kv_head * D;
            kw[b] = reinterpret_cast<const uint4*>(k + at)[chunk];
            vw[b] = reinterpret_cast<const uint4*>(v + at)[chunk];
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            float f[8], score = 0.f;
            unpack8(kw[b], f);
#pragma unroll
            for (int e = 0; e < 8; e++) score += f[e] * qs[e];
#pragma unroll
            for (int o = LANES / 2; o > 0; o >>= 1) score += __shfl_xor_sync(FULL, score, o);
            if (base + b * GROUPS + group >= last) score = -INFINITY;
            const float next = fmaxf(top, score), shrink = exp2_fast(top - next), p = exp2_fast(score - next);
            unpack8(vw[b], f);
#pragma unroll
            for (int e = 0; e < 8; e++) acc[e] = acc[e] * shrink + p * f[e];
            sum = sum * shrink + p;
            top = next;
        }
    }
#pragma unroll
    for (int e = 0; e < 8; e++) values[group][chunk * 8 + e] = acc[e];
    if (chunk == 0) tops[group] = top, sums[group] = sum;
    __syncthreads();
    partial += (((i64)query * q_heads + head) * splits + blockIdx.y) * (D + 2);
    if (threadIdx.x < D) {
        float best = tops[0], total = 0.f, value = 0.f;
        for (int g = 1; g < GROUPS; g++) best = fmaxf(best, tops[g]);
        for (int g = 0; g < GROUPS; g++) {
            const float weight = exp2_fast(tops[g] - best);
            total += sums[g] * weight;
            value += values[g][threadIdx.x] * weight;
        }
        partial[threadIdx.x] = value;
        if (threadIdx.x == 0) partial[D] = best, partial[D + 1] = total;
    }
}

KERNEL attention_decode_combine(bf16* __restrict__ out, const float* __restrict__ partial, const bf16* __restrict__ sinks, int q_heads, int splits) {
    const i64 row = blockIdx.x;
    partial += row * splits * (D + 2);
    const float sink = to_float(sinks[row % q_heads]) * LOG2E;
    float best = fmaxf(sink, -1e30f);
    for (int s = 0; s < splits; s++) best = fmaxf(best, partial[s * (D + 2) + D]);
    float total = exp2_fast(sink - best), value = 0.f;
    for (int s = 0; s < splits; s++) {
        const float weight = exp2_fast(partial[s * (D + 2) + D] - best);
        total += partial[s * (D + 2) + D + 1] * weight;
        value += partial[s * (D + 2) + threadIdx.x] * weight;
    }
    out[row * D + threadIdx.x] = from_float<bf16>(value / total);
}
