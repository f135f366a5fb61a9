// Low-rank updates of rows that each have one of their own out of several, or none: few rows, each computed by itself, so that it does
// not depend on the others. A row's factors are read once, by neighbouring threads.
#include "common.cuh"

__device__ __forceinline__ float dot8(uint4 a, uint4 b) {
    float f[8], g[8], sum = 0.f;
    unpack8(a, f), unpack8(b, g);
#pragma unroll
    for (int j = 0; j < 8; j++) sum += f[j] * g[j];
    return sum;
}

// A warp takes one number of z. Every `share` rows have one row of x.
KERNEL __launch_bounds__(256) lora_rows_down(float* __restrict__ z, const bf16* __restrict__ x, const bf16* __restrict__ a, const u32* __restrict__ index,
                                             int groups, int width, int rank, int share) {
    const i64 row = blockIdx.x;
    const u32 group = index[row];
    const int r = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (group >= (u32)groups) return;
    const uint4* from = reinterpret_cast<const uint4*>(x + row / share * width);
    const uint4* with = reinterpret_cast<const uint4*>(a + ((i64)group * rank + r) * width);
    float sum = 0.f;
#pragma unroll 6
    for (int i = lane; i < width / 8; i += 32) sum += dot8(__ldg(from + i), __ldg(with + i));
    sum = warp_sum(sum);
    if (lane == 0) z[row * rank + r] = sum;
}

// A number of z b^T.
__device__ __forceinline__ float up(const float* z, const bf16* b, int rank) {
    const uint4* with = reinterpret_cast<const uint4*>(b);
    float sum = 0.f;
#pragma unroll 4
    for (int i = 0; i < rank / 8; i++) {
        float f[8], low[8];
        unpack8(__ldg(with + i), f);
        wide_load4(z + i * 8, low), wide_load4(z + i * 8 + 4, low + 4);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += low[j] * f[j];
    }
    return sum;
}

// A thread takes one number of y.
KERNEL __launch_bounds__(128) lora_rows_up(bf16* __restrict__ y, const float* __restrict__ z, const bf16* __restrict__ b, const u32* __restrict__ index,
                                           int groups, int width, int rank) {
    const i64 row = blockIdx.x;
    const u32 group = index[row];
    const int column = blockIdx.y * 128 + threadIdx.x;
    if (group >= (u32)groups || column >= width) return;
    bf16& to = y[row * width + column];
    to = from_float<bf16>(to_float(to) + up(z + row * rank, b + ((i64)group * width + column) * rank, rank));
}

// The same apart: 0 for rows without an update.
KERNEL __launch_bounds__(128) lora_rows_term(float* __restrict__ y, const float* __restrict__ z, const bf16* __restrict__ b, const u32* __restrict__ index,
                                             int groups, int width, int rank) {
    const i64 row = blockIdx.x;
    const u32 group = index[row];
    const int column = blockIdx.y * 128 + threadIdx.x;
    if (column >= width) return;
    y[row * width + column] = group < (u32)groups ? up(z + row * rank, b + ((i64)group * width + column) * rank, rank) : 0.f;
}

// The update of each sorted row of experts, adapter * experts + expert, from the adapter of each token.
KERNEL lora_rows_index(u32* __restrict__ index, const u32* __restrict__ adapters, const u32* __restrict__ order, const u32* __restrict__ ids, int rows, int k,
                       int experts) {
    const int row = blockIdx.x * 128 + threadIdx.x;
    if (row >= rows) return;
    const u32 pair = order[row], adapter = adapters[pair / k];
    index[row] = adapter == 0xffffffffu ? adapter : adapter * experts + ids[pair];
}
