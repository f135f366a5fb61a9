// Dropout and fills from the counter-based generator of philox.cuh.
//
// normal: Box-Muller in f64 on the words (a, b) of a pair of elements: u1 = ((a >> 8) + 1) * 2^-24, u2 = (b >> 8) * 2^-24,
//   r = sqrt(-2 ln u1); the even element is r cos(2 pi u2), the odd one r sin(2 pi u2); mean + std * z, rounded to f32.
// bytes: low + (byte * span >> 8). dropout: stream "drop" by tokens, an element stays if its word >= threshold = floor(p * 2^32).
#include "philox.cuh"

constexpr u32 DROPOUT_STREAM = 0x64726f70;

template <typename T>
__device__ __forceinline__ void dropout(T* y, const T* x, const u32* keys, int width, u64 seed, u32 threshold, float scale) {
    const int column = (blockIdx.y * 256 + threadIdx.x) * 4;
    if (column >= width) return;
    const i64 row = blockIdx.x, i = row * width + column, end = (row + 1) * width;
    float f[4];
    load4(x, i, end, f);
    const uint4 w = philox_token(seed, DROPOUT_STREAM, keys[2 * row], keys[2 * row + 1], column / 4);
    f[0] = w.x >= threshold ? f[0] * scale : 0.f;
    f[1] = w.y >= threshold ? f[1] * scale : 0.f;
    f[2] = w.z >= threshold ? f[2] * scale : 0.f;
    f[3] = w.w >= threshold ? f[3] * scale : 0.f;
    store4(y, i, end, f);
}

__device__ __forceinline__ void box_muller(u32 a, u32 b, double mean, double std, float out[2]) {
    const double u1 = ((double)(a >> 8) + 1.0) * 0x1p-24, u2 = (double)(b >> 8) * 0x1p-24;
    const double r = sqrt(-2.0 * log(u1));
    double sine, cosine;
    sincos(6.283185307179586 * u2, &sine, &cosine);
    out[0] = (float)__dadd_rn(mean, __dmul_rn(std, r * cosine));
    out[1] = (float)__dadd_rn(mean, __dmul_rn(std, r * sine));
}

template <typename T>
__device__ __forceinline__ void fill_normal(T* y, i64 count, u64 seed, u64 stream, u64 first, float mean, float std) {
#pragma unroll 1
    for (int p = 0; p < 2; p++) {
        const i64 i = element4(p);
        if (i >= count) return;
        const uint4 w = philox(seed, stream, (first + i) / 4);
        float f[4];
        box_muller(w.x, w.y, mean, std, f);
        box_muller(w.z, w.w, mean, std, f + 2);
        store4(y, i, count, f);
    }
}

KERNEL dropout_bf16(bf16* y, const bf16* x, const u32* keys, int width, u64 seed, u32 threshold, float scale) {
    dropout(y, x, keys, width, seed, threshold, scale);
}
KERNEL dropout_f32(float* y, const float* x, const u32* keys, int width, u64 seed, u32 threshold, float scale) {
    dropout(y, x, keys, width, seed, threshold, scale);
}

KERNEL fill_normal_bf16(bf16* y, i64 count, u64 seed, u64 stream, u64 first, float mean, float std) {
    fill_normal(y, count, seed, stream, first, mean, std);
}
KERNEL fill_normal_f32(float* y, i64 count, u64 seed, u64 stream, u64 first, float mean, float std) {
    fill_normal(y, count, seed, stream, first, mean, std);
}

KERNEL fill_bytes(uint8_t* y, i64 count, u64 seed, u64 stream, u64 first, u32 low, u32 span) {
    const i64 at = (i64)blockIdx.x * ELEMENTS_PER_BLOCK + threadIdx.x * 16;
    if (threadIdx.x >= ELEMENTS_PER_BLOCK / 16 || at >= count) return;
    const uint4 w = philox(seed, stream, (first + at) / 16);
    const u32 words[4] = {w.x, w.y, w.z, w.w};
    u32 out[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        out[j] = 0;
#pragma unroll
        for (int b = 0; b < 4; b++) out[j] |= ((low + ((words[j] >> (8 * b) & 255u) * span >> 8)) & 255u) << (8 * b);
    }
    if (at + 16 <= count && reinterpret_cast<uintptr_t>(y + at) % 16 == 0) {
        *reinterpret_cast<uint4*>(y + at) = make_uint4(out[0], out[1], out[2], out[3]);
    } else {
        for (int j = 0; j < 16 && at + j < count; j++) y[at + j] = (uint8_t)(out[j / 4] >> (8 * (j % 4)));
    }
}
