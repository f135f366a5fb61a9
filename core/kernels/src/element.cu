// Casts and scaled additions.
#include "common.cuh"

template <typename To, typename From> __device__ __forceinline__ void cast(To* __restrict__ y, const From* __restrict__ x, i64 count) {
    float f[2][4];
#pragma unroll
    for (int p = 0; p < 2; p++) load4(x, element4(p), count, f[p]);
#pragma unroll
    for (int p = 0; p < 2; p++) store4(y, element4(p), count, f[p]);
}

template <typename To, typename From> __device__ __forceinline__ void add_scaled(To* __restrict__ y, const From* __restrict__ x, i64 count, float a) {
    float f[2][4], g[2][4];
#pragma unroll
    for (int p = 0; p < 2; p++) {
        load4(x, element4(p), count, f[p]);
        load4(y, element4(p), count, g[p]);
    }
#pragma unroll
    for (int p = 0; p < 2; p++) {
#pragma unroll
        for (int j = 0; j < 4; j++) g[p][j] += a * f[p][j];
        store4(y, element4(p), count, g[p]);
    }
}

KERNEL cast_bf16_f32(float* y, const bf16* x, i64 count) { cast(y, x, count); }
KERNEL cast_f32_bf16(bf16* y, const float* x, i64 count) { cast(y, x, count); }
KERNEL add_scaled_bf16(bf16* y, const bf16* x, i64 count, float a) { add_scaled(y, x, count, a); }
KERNEL add_scaled_f32(float* y, const float* x, i64 count, float a) { add_scaled(y, x, count, a); }
KERNEL add_scaled_f32_bf16(float* y, const bf16* x, i64 count, float a) { add_scaled(y, x, count, a); }
