// Keys and values of a layer in pages of PAGE positions: a page is PAGE rows [KV D], slot = page * PAGE + position % PAGE.
#include "rope.cuh"

constexpr int PAGE = 16;            // positions a page
constexpr u32 NO_SLOT = 0xffffffffu;

// Rotates queries and keys of packed rows and puts keys and values into their slots; a row without one is only rotated. A thread takes
// 8 pairs of one head.
KERNEL paged_write(bf16* y, bf16* __restrict__ keys, bf16* __restrict__ values, const bf16* x, const float* __restrict__ cos,
                   const float* __restrict__ sin, const u32* __restrict__ positions, const u32* __restrict__ slots, int tokens, int q_heads,
                   int kv_heads, int dim) {
    const int half = dim / 2, per_head = half / 8, heads = q_heads + 2 * kv_heads, per_token = heads * per_head;
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (u64)tokens * per_token) return;
    const u64 token = index >> 32 ? index / per_token : (u32)index / per_token;
    const int rest = (int)(index - token * per_token), head = rest / per_head, chunk = rest % per_head;
    const i64 at = ((i64)token * heads + head) * dim + chunk * 8;
    uint4 low = *reinterpret_cast<const uint4*>(x + at), high = *reinterpret_cast<const uint4*>(x + at + half);
    if (head < q_heads + kv_heads) rotate(low, high, cos, sin, (i64)positions[token] * half + chunk * 8, 1.f);
    if (head < q_heads + kv_heads || x != y) {
        *reinterpret_cast<uint4*>(y + at) = low;
        *reinterpret_cast<uint4*>(y + at + half) = high;
    }
    const u32 slot = slots[token];
    if (head < q_heads || slot == NO_SLOT) return;
    const bool key = head < q_heads + kv_heads;
    bf16* to = (key ? keys : values) + ((i64)slot * kv_heads + head - q_heads - (key ? 0 : kv_heads)) * dim + chunk * 8;
    *reinterpret_cast<uint4*>(to) = low;
    *reinterpret_cast<uint4*>(to + half) = high;
}

// Rows [KV D] of keys and values, side by side again: rows cu[s]..cu[s + 1] are the positions from firsts[s] on of sequence s, whose
// pages are row s of the table.
KERNEL paged_gather(bf16* __restrict__ keys_out, bf16* __restrict__ values_out, const bf16* __restrict__ keys, const bf16* __restrict__ values,
                    const u32* __restrict__ table, const u32* __restrict__ cu, const u32* __restrict__ firsts, int n, int rows, int pages, int width) {
    const i64 row = warp_row();
    if (row >= rows) return;
    int low = 0, high = n; // the last sequence that begins at this row or before
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (cu[middle] <= row ? low : high) = middle;
    }
    const u32 position = firsts[low] + (u32)(row - cu[low]);
    const i64 slot = (i64)table[(i64)low * pages + position / PAGE] * PAGE + position % PAGE;
    for (int i = threadIdx.x % 32; i < width / 8; i += 32) {
        reinterpret_cast<uint4*>(keys_out + row * width)[i] = reinterpret_cast<const uint4*>(keys + slot * width)[i];
        reinterpret_cast<uint4*>(values_out + row * width)[i] = reinterpret_cast<const uint4*>(values + slot * width)[i];
    }
}
