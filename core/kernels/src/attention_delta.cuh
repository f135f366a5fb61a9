// The parts of the attention backward that are sums: delta = sum(out * dout) a row, and the gradient of the sinks.
#pragma once
#include "attention.cuh"

// Rows are taken sixteen tokens of a head at a time (fewer in the last stretch), so that lse-shaped stores run together;
// CHUNKS lanes share a row.
KERNEL attention_delta(float* __restrict__ delta, const bf16* __restrict__ out, const bf16* __restrict__ dout, int tokens, int q_heads) {
    constexpr int STEP = 128 / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int pass = 0; pass < CHUNKS; pass++) {
        const u32 i = blockIdx.x * 128 + pass * STEP + threadIdx.x / CHUNKS;
        const u32 stretch = i / (16 * q_heads), rest = i - stretch * 16 * q_heads;
        const u32 span = min(16, (int)(tokens - stretch * 16));
        const bool valid = i < (u32)tokens * q_heads;
        const u32 head = valid ? rest / span : 0, token = valid ? stretch * 16 + rest % span : 0;
        const i64 at = ((i64)token * q_heads + head) * D;
        float x[8], y[8], sum = 0.f;
        unpack8(reinterpret_cast<const uint4*>(out + at)[chunk], x);
        unpack8(reinterpret_cast<const uint4*>(dout + at)[chunk], y);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += x[e] * y[e];
#pragma unroll
        for (int o = CHUNKS / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL, sum, o);
        if (valid && chunk == 0) delta[(i64)head * tokens + token] = sum;
    }
}

KERNEL attention_sink_grad(float* __restrict__ dsinks, const float* __restrict__ lse, const float* __restrict__ delta, const bf16* __restrict__ sinks,
                           int tokens) {
    const i64 head = blockIdx.x;
    const float sink = to_float(sinks[head]);
    float sum = 0.f;
#pragma unroll 8
    for (int t = threadIdx.x; t < tokens; t += 256) sum += __expf(sink - lse[head * tokens + t]) * delta[head * tokens + t];
    sum = block_sum(sum);
    if (threadIdx.x == 0) dsinks[head] = -sum;
}
