// RMS norm: y = w * x * r with r = 1/sqrt(mean(x^2) + eps), all in f32, rounded once. A block takes four rows one after
// the other and keeps a row in registers up to REGISTER_CHUNKS * 1024 columns; wider or odd rows are read again.
#include "common.cuh"

constexpr int BLOCK = 128;
constexpr int REGISTER_CHUNKS = 4; // 16-byte chunks a thread keeps

__device__ __forceinline__ bool in_registers(int width) { return width % 8 == 0 && width <= REGISTER_CHUNKS * BLOCK * 8; }

__device__ __forceinline__ float rstd_of(float square_sum, int width, float eps) { return 1.f / sqrtf(square_sum / (float)width + eps); }

// Sums of two values over the block. Two sets of slots in turn, so one barrier a row is enough.
__device__ __forceinline__ float2 row_sums(float a, float b, int turn) {
    __shared__ float2 parts[2][BLOCK / 32];
    a = warp_sum(a), b = warp_sum(b);
    if (threadIdx.x % 32 == 0) parts[turn % 2][threadIdx.x / 32] = make_float2(a, b);
    __syncthreads();
    float2 sum = parts[turn % 2][0];
#pragma unroll
    for (int w = 1; w < BLOCK / 32; w++) sum.x += parts[turn % 2][w].x, sum.y += parts[turn % 2][w].y;
    return sum;
}

__device__ __forceinline__ uint4 chunk_or_zero(const bf16* p, int i, int chunks) {
    return i < chunks ? reinterpret_cast<const uint4*>(p)[i] : make_uint4(0, 0, 0, 0);
}

// A sum in f32, rounded.
__device__ __forceinline__ uint4 add8(uint4 a, uint4 b) {
    float f[8], g[8];
    unpack8(a, f), unpack8(b, g);
#pragma unroll
    for (int j = 0; j < 8; j++) f[j] += g[j];
    return pack8(f);
}

// With delta, x + delta is what is normed; it goes to sum.
KERNEL rms_norm_forward(bf16* __restrict__ y, bf16* __restrict__ sum, const bf16* __restrict__ x, const bf16* __restrict__ delta,
                        const bf16* __restrict__ w, int rows, int width, float eps) {
    const bool kept = in_registers(width);
    const int chunks = width / 8;
    for (int turn = 0; turn < ROWS_PER_BLOCK; turn++) {
        const i64 row = (i64)blockIdx.x * ROWS_PER_BLOCK + turn;
        if (row >= rows) return;
        const bf16 *from = x + row * width, *more = delta ? delta + row * width : nullptr;
        bf16 *to = y + row * width, *total = sum + row * width;
        float square = 0.f;
        if (kept) {
            uint4 xs[REGISTER_CHUNKS];
            float f[8], g[8];
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                const int i = threadIdx.x + c * BLOCK;
                xs[c] = chunk_or_zero(from, i, chunks);
                if (!more || i >= chunks) continue;
                xs[c] = add8(xs[c], reinterpret_cast<const uint4*>(more)[i]);
                reinterpret_cast<uint4*>(total)[i] = xs[c];
            }
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                unpack8(xs[c], f);
#pragma unroll
                for (int j = 0; j < 8; j++) square += f[j] * f[j];
            }
            const float r = rstd_of(row_sums(square, 0.f, turn).x, width, eps);
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                const int i = threadIdx.x + c * BLOCK;
                if (i >= chunks) continue;
                unpack8(xs[c], f);
                unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
                for (int j = 0; j < 8; j++) f[j] = g[j] * (f[j] * r);
                reinterpret_cast<uint4*>(to)[i] = pack8(f);
            }
        } else {
            for (int i = threadIdx.x; i < width; i += BLOCK) {
                const bf16 value = more ? from_float<bf16>(to_float(from[i]) + to_float(more[i])) : from[i];
                if (more) total[i] = value;
                square += to_float(value) * to_float(value);
            }
            if (more) from = total; // a thread reads only what it wrote
            const float r = rstd_of(row_sums(square, 0.f, turn).x, width, eps);
            for (int i = threadIdx.x; i < width; i += BLOCK) to[i] = from_float<bf16>(to_float(w[i]) * (to_float(from[i]) * r));
        }
    }
}

// dx = r * w*dy - x * r^3/width * sum(w*dy*x) (+ add if there is one)
KERNEL rms_norm_backward(bf16* __restrict__ dx, const bf16* __restrict__ x, const bf16* __restrict__ w, const bf16* __restrict__ dy,
                         const bf16* __restrict__ add, int rows, int width, float eps) {
    const bool kept = in_registers(width);
    const int chunks = width / 8;
    for (int turn = 0; turn < ROWS_PER_BLOCK; turn++) {
        const i64 row = (i64)blockIdx.x * ROWS_PER_BLOCK + turn;
        if (row >= rows) return;
        const bf16 *from = x + row * width, *gradient = dy + row * width, *more = add ? add + row * width : nullptr;
        bf16* to = dx + row * width;
        float square = 0.f, dot = 0.f;
        if (kept) {
            uint4 xs[REGISTER_CHUNKS], ds[REGISTER_CHUNKS];
            float f[8], d[8], g[8];
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                xs[c] = chunk_or_zero(from, threadIdx.x + c * BLOCK, chunks);
                ds[c] = chunk_or_zero(gradient, threadIdx.x + c * BLOCK, chunks);
            }
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                unpack8(xs[c], f);
                unpack8(ds[c], d);
                unpack8(chunk_or_zero(w, threadIdx.x + c * BLOCK, chunks), g);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    d[j] *= g[j];
                    square += f[j] * f[j];
                    dot += d[j] * f[j];
                }
            }
            const float2 sums = row_sums(square, dot, turn);
            const float r = rstd_of(sums.x, width, eps), pull = sums.y * r * r * r / (float)width;
#pragma unroll
            for (int c = 0; c < REGISTER_CHUNKS; c++) {
                const int i = threadIdx.x + c * BLOCK;
                if (i >= chunks) continue;
                unpack8(xs[c], f);
                unpack8(ds[c], d);
                unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
                for (int j = 0; j < 8; j++) f[j] = r * (g[j] * d[j]) - f[j] * pull;
                if (more) {
                    unpack8(reinterpret_cast<const uint4*>(more)[i], g);
#pragma unroll
                    for (int j = 0; j < 8; j++) f[j] += g[j];
                }
                reinterpret_cast<uint4*>(to)[i] = pack8(f);
            }
        } else {
            for (int i = threadIdx.x; i < width; i += BLOCK) {
                const float f = to_float(from[i]);
                square += f * f;
                dot += to_float(w[i]) * to_float(gradient[i]) * f;
            }
            const float2 sums = row_sums(square, dot, turn);
            const float r = rstd_of(sums.x, width, eps), pull = sums.y * r * r * r / (float)width;
            for (int i = threadIdx.x; i < width; i += BLOCK)
                to[i] = from_float<bf16>(r * (to_float(w[i]) * to_float(gradient[i])) - to_float(from[i]) * pull + (more ? to_float(more[i]) : 0.f));
        }
    }
}

KERNEL rms_norm_rstd(float* __restrict__ rstd, const bf16* __restrict__ x, int rows, int width, float eps) {
    const i64 row = warp_row();
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float sum = 0.f;
    for (int i = lane; i < width; i += 32) sum += to_float(x[row * width + i]) * to_float(x[row * width + i]);
    sum = warp_sum(sum);
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
