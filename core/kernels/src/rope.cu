// Rotary embedding on packed rows [q heads | k heads | v heads]; the transpose (the backward) turns the sign of the sine. A thread
// takes 8 pairs of one head.
#include "rope.cuh"

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
    if (head < q_heads + kv_heads) rotate(low, high, cos, sin, (i64)positions[token] * half + chunk * 8, transpose ? -1.f : 1.f);
    *reinterpret_cast<uint4*>(y + at) = low;
    *reinterpret_cast<uint4*>(y + at + half) = high;
}
