// Rotary embedding on packed rows [q heads | k heads | v heads]: x1' = x1*c - x2*s, x2' = x2*c + x1*s with x1, x2 the
// halves of a head; the transpose (the backward) turns the sign of s. A thread takes 8 pairs of one head.
#include "common.cuh"

KERNEL rope_apply(bf16* y, const bf16* x, const float* __restrict__ cos, const float* __restrict__ sin, const u32* __restrict__ positions,
                  i64 tokens, int q_heads, int kv_heads, int dim, int transpose) {
    const int half = dim / 2, per_head = half / 8, heads = q_heads + 2 * kv_heads;
    const u32 per_token = (u32)(heads * per_head);
    const u64 index = (u64)blockIdx.x * 256 + threadIdx.x;
    if (index >= (u64)tokens * per_token) return;
    const u64 token = index >> 32 ? index / per_token : (u32)index / per_token;
    const int rest = (int)(index - token * per_token);
    const int head = rest / per_head, chunk = rest % per_head;
    const i64 at = (i64)token * heads * dim + (i64)head * dim + chunk * 8;
    uint4 low = *reinterpret_cast<const uint4*>(x + at), high = *reinterpret_cast<const uint4*>(x + at + half);
    if (head < q_heads + kv_heads) {
        const i64 table = (i64)positions[token] * half + chunk * 8;
        const float sign = transpose ? -1.f : 1.f;
        float a[8], b[8], c[8], s[8];
        unpack8(low, a);
        unpack8(high, b);
        wide_load4(cos + table, c), wide_load4(cos + table + 4, c + 4);
        wide_load4(sin + table, s), wide_load4(sin + table + 4, s + 4);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float first = a[j], sine = sign * s[j];
            a[j] = first * c[j] - b[j] * sine;
            b[j] = b[j] * c[j] + first * sine;
        }
        low = pack8(a), high = pack8(b);
    }
    *reinterpret_cast<uint4*>(y + at) = low;
    *reinterpret_cast<uint4*>(y + at + half) = high;
}
