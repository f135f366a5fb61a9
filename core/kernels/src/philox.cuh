// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), counter based: the number of
// an element depends on (seed, stream, index) alone, so CPU and CUDA agree and nothing has to be stored.
//
// Element i of (seed, stream) is word i % 4 of the block with counter [lo(i/4), hi(i/4), lo(stream), hi(stream)] and key
// [lo(seed), hi(seed)]; lo and hi are 32-bit halves. Column c of a token is word c % 4 of the block with counter [c/4, place in its
// example, stream, example], whatever batch it is in. Bytes are the words' bytes, little endian: byte i is in block i/16.
#pragma once
#include "common.cuh"

__device__ __forceinline__ uint4 philox(u64 seed, u64 stream, u64 block) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    uint4 c = make_uint4((u32)block, (u32)(block >> 32), (u32)stream, (u32)(stream >> 32));
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 low0 = 0xD2511F53u * c.x, high0 = __umulhi(0xD2511F53u, c.x);
        const u32 low1 = 0xCD9E8D57u * c.z, high1 = __umulhi(0xCD9E8D57u, c.z);
        c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c;
}

__device__ __forceinline__ uint4 philox_token(u64 seed, u32 stream, u32 example, u32 place, u32 block) {
    return philox(seed, (u64)example << 32 | stream, (u64)place << 32 | block);
}
