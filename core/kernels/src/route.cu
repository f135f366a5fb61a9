// Pairs (token, choice) sorted by expert, stable, without the host: counts of blocks of 1024 pairs, their prefix sums, then each pair
// to its row. Up to 256 experts.
#include "common.cuh"

constexpr int PAIRS = 1024, MAX_EXPERTS = 256;

KERNEL __launch_bounds__(PAIRS) route_count(u32* __restrict__ counts, const u32* __restrict__ ids, int pairs, int experts) {
    __shared__ u32 count[MAX_EXPERTS];
    if (threadIdx.x < experts) count[threadIdx.x] = 0;
    __syncthreads();
    const int pair = blockIdx.x * PAIRS + threadIdx.x;
    if (pair < pairs) atomicAdd(&count[ids[pair]], 1u); // whole numbers: any order gives the same
    __syncthreads();
    if (threadIdx.x < experts) counts[blockIdx.x * experts + threadIdx.x] = count[threadIdx.x];
}

// counts [blocks, experts] become the first row of each block's pairs of an expert.
KERNEL __launch_bounds__(MAX_EXPERTS) route_scan(u32* __restrict__ offsets, u32* __restrict__ counts, int blocks, int experts) {
    __shared__ u32 total[MAX_EXPERTS];
    const int e = threadIdx.x;
    u32 sum = 0;
    if (e < experts) {
#pragma unroll 8
        for (int b = 0; b < blocks; b++) sum += counts[b * experts + e];
        total[e] = sum;
    }
    __syncthreads();
    if (e >= experts) return;
    u32 row = 0;
    for (int before = 0; before < e; before++) row += total[before];
    offsets[e] = row;
    if (e == experts - 1) offsets[experts] = row + total[e];
    for (int b = 0; b < blocks; b++) {
        const u32 count = counts[b * experts + e];
        counts[b * experts + e] = row;
        row += count;
    }
}

KERNEL __launch_bounds__(PAIRS) route_scatter(u32* __restrict__ order, u32* __restrict__ inverse, const u32* __restrict__ ids, const u32* __restrict__ first,
                                              int pairs, int experts) {
    __shared__ u32 before[PAIRS / 32][MAX_EXPERTS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = blockIdx.x * PAIRS + threadIdx.x;
    for (int e = lane; e < experts; e += 32) before[warp][e] = 0;
    __syncwarp();
    const u32 id = pair < pairs ? ids[pair] : MAX_EXPERTS;
    const u32 same = __match_any_sync(FULL, id), rank = __popc(same & ((1u << lane) - 1));
    if (pair < pairs && rank == 0) before[warp][id] = __popc(same);
    __syncthreads();
    if (threadIdx.x < experts) {
        u32 row = first[blockIdx.x * experts + threadIdx.x];
        for (int w = 0; w < PAIRS / 32; w++) {
            const u32 count = before[w][threadIdx.x];
            before[w][threadIdx.x] = row;
            row += count;
        }
    }
    __syncthreads();
    if (pair >= pairs) return;
    const u32 row = before[warp][id] + rank;
    order[row] = pair;
    inverse[pair] = row;
}
