// RMS norm: y = w * x * r with r = 1/sqrt(mean(x^2) + eps), all in f32, rounded once. A warp takes a row and keeps
// it in registers up to REGISTER_CHUNKS * 256 columns; wider or odd rows are read again.
#include "common.cuh"

constexpr int REGISTER_CHUNKS = 12;

__device__ __forceinline__ bool in_registers(int width) {
    return width % 8 == 0 && width <= REGISTER_CHUNKS * 256;
}

__device__ __forceinline__ float rstd_of(float square_sum, int width, float eps) {
    return 1.f / sqrtf(square_sum / (float)width + eps);
}

__device__ __forceinline__ void load_row(const bf16* x, int chunks, int lane, uint4 row[REGISTER_CHUNKS]) {
#pragma unroll
    for (int c = 0; c < REGISTER_CHUNKS; c++) {
        const int i = lane + 32 * c;
        row[c] = i < chunks ? reinterpret_cast<const uint4*>(x)[i] : make_uint4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ float square_sum_of(const uint4 row[REGISTER_CHUNKS]) {
    float sum = 0.f, f[8];
#pragma unroll
    for (int c = 0; c < REGISTER_CHUNKS; c++) {
        unpack8(row[c], f);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += f[j] * f[j];
    }
    return warp_sum(sum);
}

__device__ __forceinline__ float square_sum_of(const bf16* x, int width, int lane) {
    float sum = 0.f;
    for (int i = lane; i < width; i += 32) {
        const float f = to_float(x[i]);
        sum += f * f;
    }
    return warp_sum(sum);
}

KERNEL rms_norm_forward(bf16* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ w, int rows, int width, float eps) {
    const i64 row = warp_row();
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += row * width, y += row * width;
    if (in_registers(width)) {
        const int chunks = width / 8;
        uint4 xs[REGISTER_CHUNKS];
        load_row(x, chunks, lane, xs);
        const float r = rstd_of(square_sum_of(xs), width, eps);
        float f[8], g[8];
#pragma unroll
        for (int c = 0; c < REGISTER_CHUNKS; c++) {
            const int i = lane + 32 * c;
            if (i >= chunks) continue;
            unpack8(xs[c], f);
            unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] = g[j] * (f[j] * r);
            reinterpret_cast<uint4*>(y)[i] = pack8(f);
        }
    } else {
        const float r = rstd_of(square_sum_of(x, width, lane), width, eps);
        for (int i = lane; i < width; i += 32) y[i] = from_float<bf16>(to_float(w[i]) * (to_float(x[i]) * r));
    }
}

// dx = r * w*dy - x * r^3/width * sum(w*dy*x)
KERNEL rms_norm_backward(bf16* __restrict__ dx, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ dy,
                         int rows, int width, float eps) {
    const i64 row = warp_row();
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += row * width, dx += row * width, dy += row * width;
    if (in_registers(width)) {
        const int chunks = width / 8;
        uint4 xs[REGISTER_CHUNKS], ds[REGISTER_CHUNKS];
        load_row(x, chunks, lane, xs);
        load_row(dy, chunks, lane, ds);
        const float r = rstd_of(square_sum_of(xs), width, eps);
        float f[8], d[8], g[8], dot = 0.f;
#pragma unroll
        for (int c = 0; c < REGISTER_CHUNKS; c++) {
            const int i = lane + 32 * c;
            if (i >= chunks) continue;
            unpack8(xs[c], f);
            unpack8(ds[c], d);
            unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
            for (int j = 0; j < 8; j++) dot += g[j] * d[j] * f[j];
        }
        const float pull = warp_sum(dot) * r * r * r / (float)width;
#pragma unroll
        for (int c = 0; c < REGISTER_CHUNKS; c++) {
            const int i = lane + 32 * c;
            if (i >= chunks) continue;
            unpack8(xs[c], f);
            unpack8(ds[c], d);
            unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] = r * (g[j] * d[j]) - f[j] * pull;
            reinterpret_cast<uint4*>(dx)[i] = pack8(f);
        }
    } else {
        const float r = rstd_of(square_sum_of(x, width, lane), width, eps);
        float dot = 0.f;
        for (int i = lane; i < width; i += 32) dot += to_float(w[i]) * to_float(dy[i]) * to_float(x[i]);
        const float pull = warp_sum(dot) * r * r * r / (float)width;
        for (int i = lane; i < width; i += 32) dx[i] = from_float<bf16>(r * (to_float(w[i]) * to_float(dy[i])) - to_float(x[i]) * pull);
    }
}

KERNEL rms_norm_rstd(float* __restrict__ rstd, const bf16* __restrict__ x, int rows, int width, float eps) {
    const i64 row = warp_row();
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float sum = square_sum_of(x + row * width, width, lane);
    if (lane == 0) rstd[row] = rstd_of(sum, width, eps);
}

KERNEL rms_norm_weight_grad(float* __restrict__ partial, const bf16* __restrict__ x, const bf16* __restrict__ dy,
                            const float* __restrict__ rstd, int rows, int width, int rows_per_block) {
    const int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= width) return;
    const int first = blockIdx.y * rows_per_block, last = min(rows, first + rows_per_block);
    float sum = 0.f;
#pragma unroll 4
    for (int row = first; row < last; row++) {
        const i64 i = (i64)row * width + column;
        sum += to_float(dy[i]) * (to_float(x[i]) * rstd[row]);
    }
    partial[(i64)blockIdx.y * width + column] = sum;
}
