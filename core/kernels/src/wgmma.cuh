// What every product of warpgroups (wgmma, compute capability 9.0) needs: descriptors of tiles in shared memory under the
// 128-byte swizzle, ordering, and the accumulators' stay in registers. Layouts: PTX manual, "Asynchronous Warpgroup Level
// Matrix Instructions".
#pragma once
#include "common.cuh"

// Descriptor of a tile of rows of 64 values: `chunk` bytes from 64 columns to the next 64 where columns are the outer dimension.
__device__ __forceinline__ u64 tile_descriptor(u32 address, u32 chunk) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(chunk >> 4) << 16 | (u64)64 << 32 | (u64)1 << 62;
}

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

// Keeps the compiler from moving uses of accumulators across a wait.
template <int TILES> __device__ __forceinline__ void pin_tiles(float (&c)[TILES][4]) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[t][i])::"memory");
}

// What threads wrote to shared memory becomes visible to bulk copies; each writing thread calls it before the barrier.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
