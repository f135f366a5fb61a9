// Sums in a fixed order: a partial a block, then one block over the partials. Squares are summed in f64.
#include "common.cuh"

KERNEL square_sum_f32(double* __restrict__ partial, const float* __restrict__ x, i64 count) {
    double sum = 0.0;
    for (i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * 4; i < count; i += (i64)gridDim.x * 1024) {
        float f[4];
        load4(x, i, count, f);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += (double)f[j] * (double)f[j];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}


KERNEL sum_f64(double* __restrict__ out, const double* __restrict__ x, i64 count) {
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < count; i += 256) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

// Wrapping sums of scrambled bits, so that their order is of no matter: a number that differs, or stands elsewhere, makes
// another sum. The scrambling is the finaliser of MurmurHash3. Low and high half of a block's sum are written one after another.
KERNEL bit_sum_f32(u32* __restrict__ partial, const float* __restrict__ x, i64 count) {
    u64 sum = 0;
    for (i64 i = (i64)blockIdx.x * 256 + threadIdx.x; i < count; i += (i64)gridDim.x * 256) {
        u64 bits = ((u64)i << 32) ^ (u64)__float_as_uint(x[i]);
        bits = (bits ^ (bits >> 33)) * 0xff51afd7ed558ccdull;
        bits = (bits ^ (bits >> 33)) * 0xc4ceb9fe1a85ec53ull;
        sum += bits ^ (bits >> 33);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = (u32)sum;
        partial[2 * blockIdx.x + 1] = (u32)(sum >> 32);
    }
}

KERNEL sum_rows(float* __restrict__ out, const float* __restrict__ x, int rows, int width) {
    const int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= width) return;
    float sum = 0.f;
#pragma unroll 8
    for (int row = 0; row < rows; row++) sum += x[(i64)row * width + column];
    out[column] = sum;
}
