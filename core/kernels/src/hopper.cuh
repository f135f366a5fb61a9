// Warpgroup products of Hopper (wgmma, compute capability 9.0) on the tiles of attention.cuh, whose swizzle is the
// hardware's 128-byte one when a row is 128 bytes. Operand and descriptor layouts: PTX manual, "Asynchronous Warpgroup
// Level Matrix Instructions". A warp's 16 rows of a warpgroup's 64 lie in its registers as with mma.sync.
#pragma once
#include "attention.cuh"
#include "wgmma.cuh"

static_assert(D == 64 && MT == 1, "rows of 128 bytes, 16 a warp");
constexpr u32 CHUNK = 1024; // a tile is one chunk of 64 columns: from one to the next nothing is read

// c (+)= a * b, asynchronously: a 64x16 in registers, b 16x64 in shared memory, its columns (0) or its rows (1) being the tile's rows.
template <int TRANSPOSED> __device__ __forceinline__ void wgmma(float (&c)[8][4], const u32 (&a)[4], u64 b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                 "{%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}\n"
                 : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
                   "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
                   "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
                   "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TRANSPOSED));
}

// c = a * (64 rows of the tile)^T over the head dim.
__device__ __forceinline__ void multiply_rows_async(float (&c)[8][4], const u32 (&a)[MT][KS][4], u32 tile) {
#pragma unroll
    for (int step = 0; step < KS; step++) wgmma<0>(c, a[0][step], tile_descriptor(tile + step * 32, CHUNK), step > 0);
    wgmma_commit();
}

// c += a * (64 rows of the tile).
__device__ __forceinline__ void multiply_columns_async(float (&c)[8][4], const u32 (&a)[4][4], u32 tile) {
#pragma unroll
    for (int step = 0; step < 4; step++) wgmma<1>(c, a[step], tile_descriptor(tile + step * 16 * ROW_BYTES, CHUNK), 1);
    wgmma_commit();
}

// 64 columns of accumulators, rounded to bf16, as left operands.
__device__ __forceinline__ void round_left(u32 (&a)[4][4], const float (&c)[8][4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) to_left(a[j], c[2 * j], c[2 * j + 1]);
}

// Shared memory that cp.async wrote becomes visible to wgmma, for the whole block.
__device__ __forceinline__ void arrive() {
    publish();
    __syncthreads();
}
