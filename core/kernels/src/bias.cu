// Biases added to rows and summed back from them; grouped forms take rows sorted by expert with offsets [E+1].
#include "common.cuh"

__device__ __forceinline__ void add_row(bf16* __restrict__ y, const bf16* __restrict__ bias, int width) {
    const int lane = threadIdx.x % 32;
    if (width % 8 == 0) {
#pragma unroll 4
        for (int i = lane; i < width / 8; i += 32) {
            float f[8], b[8];
            unpack8(reinterpret_cast<const uint4*>(y)[i], f);
            unpack8(reinterpret_cast<const uint4*>(bias)[i], b);
#pragma unroll
            for (int e = 0; e < 8; e++) f[e] += b[e];
            reinterpret_cast<uint4*>(y)[i] = pack8(f);
        }
    } else {
        for (int i = lane; i < width; i += 32) y[i] = from_float<bf16>(to_float(y[i]) + to_float(bias[i]));
    }
}

KERNEL add_bias(bf16* y, const bf16* bias, i64 rows, int width) {
    const i64 row = warp_row();
    if (row < rows) add_row(y + row * width, bias, width);
}

KERNEL grouped_add_bias(bf16* y, const bf16* bias, const u32* __restrict__ offsets, i64 rows, int width, int experts) {
    const i64 row = warp_row();
    if (row >= rows) return;
    int low = 0, high = experts - 1; // the last expert whose first row is not behind this one
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (offsets[middle] <= (u32)row) low = middle;
        else high = middle - 1;
    }
    add_row(y + row * width, bias + (i64)low * width, width);
}

// Sums of 64 columns over rows first..last; eight row groups a block, added in a fixed order.
__device__ __forceinline__ void sum_columns(float* __restrict__ out, const bf16* __restrict__ x, i64 first, i64 last, int width) {
    __shared__ float parts[8][64];
    const int group = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        const int column = blockIdx.x * 64 + side * 32 + lane;
        float sum = 0.f;
        if (column < width) {
#pragma unroll 8
            for (i64 row = first + group; row < last; row += 8) sum += to_float(x[row * width + column]);
        }
        parts[group][side * 32 + lane] = sum;
    }
    __syncthreads();
    const int column = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x < 64 && column < width) {
        float sum = 0.f;
        for (int g = 0; g < 8; g++) sum += parts[g][threadIdx.x];
        out[column] = sum;
    }
}

KERNEL column_sum(float* out, const bf16* x, i64 rows, int width) { sum_columns(out, x, 0, rows, width); }

KERNEL grouped_bias_grad(float* db, const bf16* dy, const u32* __restrict__ offsets, int width) {
    const int expert = blockIdx.y;
    sum_columns(db + (i64)expert * width, dy, offsets[expert], offsets[expert + 1], width);
}
