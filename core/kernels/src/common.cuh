// Shared by every kernel: bf16 packed in 16-byte words, warp and block reductions.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;
using i64 = long long;
using u64 = unsigned long long;
using u32 = unsigned int;

#define KERNEL extern "C" __global__ void

constexpr int ELEMENTS_PER_BLOCK = 2048;
constexpr int ROWS_PER_BLOCK = 4;
constexpr unsigned FULL = 0xffffffffu;

// Eight bf16 <-> eight floats.
__device__ __forceinline__ void unpack8(uint4 w, float f[8]) {
    const u32 v[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(v[i] << 16);
        f[2 * i + 1] = __uint_as_float(v[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ u32 pack2(float low, float high) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&v);
}

__device__ __forceinline__ uint4 pack8(const float f[8]) {
    return make_uint4(pack2(f[0], f[1]), pack2(f[2], f[3]), pack2(f[4], f[5]), pack2(f[6], f[7]));
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// Four elements at p + i, of which those below count exist; one wide access where whole and aligned.
template <typename T> __device__ __forceinline__ bool wide4(const T* p, i64 i, i64 count) {
    return i + 4 <= count && reinterpret_cast<uintptr_t>(p + i) % (4 * sizeof(T)) == 0;
}

__device__ __forceinline__ void wide_load4(const float* p, float f[4]) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
}

__device__ __forceinline__ void wide_load4(const bf16* p, float f[4]) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    f[0] = __uint_as_float(v.x << 16), f[1] = __uint_as_float(v.x & 0xffff0000u);
    f[2] = __uint_as_float(v.y << 16), f[3] = __uint_as_float(v.y & 0xffff0000u);
}

__device__ __forceinline__ void wide_store4(float* p, const float f[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(f[0], f[1], f[2], f[3]);
}

__device__ __forceinline__ void wide_store4(bf16* p, const float f[4]) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack2(f[0], f[1]), pack2(f[2], f[3]));
}

template <typename T> __device__ __forceinline__ void load4(const T* p, i64 i, i64 count, float f[4]) {
    if (wide4(p, i, count)) {
        wide_load4(p + i, f);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) f[j] = i + j < count ? to_float(p[i + j]) : 0.f;
    }
}

template <typename T> __device__ __forceinline__ void store4(T* p, i64 i, i64 count, const float f[4]) {
    if (wide4(p, i, count)) {
        wide_store4(p + i, f);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j < count) p[i + j] = from_float<T>(f[j]);
    }
}

// Index of the first of the four elements that this thread takes in pass 0 or 1 of the element geometry.
__device__ __forceinline__ i64 element4(int pass) {
    return (i64)blockIdx.x * ELEMENTS_PER_BLOCK + pass * 1024 + threadIdx.x * 4;
}

template <typename T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(FULL, x, o);
    return x;
}

// Sum over a block of up to 1024 threads, in a fixed order; every thread gets it.
template <typename T> __device__ T block_sum(T x) {
    __shared__ T parts[32];
    const int warps = (blockDim.x + 31) / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T total = parts[0];
    for (int w = 1; w < warps; w++) total += parts[w];
    __syncthreads();
    return total;
}

// The row a warp takes in the row geometry.
__device__ __forceinline__ i64 warp_row() { return (i64)blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / 32; }

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// c += a * b: a 16x16 row-major, b 16x8 given as its two registers.
__device__ __forceinline__ void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
