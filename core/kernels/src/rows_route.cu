// What stands between the products of a step for a few tokens: norms with what is added before them, and the router.
#include "common.cuh"

constexpr int NORM_THREADS = 384, NORM_CHUNKS = 4; // chunks of 8 columns that a thread keeps

// sum = x + delta + the experts' rows of the token by their weights; y = the normed sum. A block takes a row.
KERNEL __launch_bounds__(NORM_THREADS)
    rows_norm(bf16* __restrict__ y, bf16* __restrict__ sum, const bf16* __restrict__ x, const bf16* __restrict__ delta, const float* __restrict__ experts,
              const float* __restrict__ weights, const bf16* __restrict__ w, int rows, int width, int k, float eps) {
    const i64 row = blockIdx.x;
    const int chunks = width / 8;
    uint4 kept[NORM_CHUNKS];
    float square = 0.f;
#pragma unroll
    for (int c = 0; c < NORM_CHUNKS; c++) {
        const int i = threadIdx.x + c * NORM_THREADS;
        if (i >= chunks) break;
        float f[8], g[8];
        unpack8(reinterpret_cast<const uint4*>(x + row * width)[i], f);
        if (delta) {
            unpack8(reinterpret_cast<const uint4*>(delta + row * width)[i], g);
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] += g[j];
        }
        if (experts) {
            float total[8] = {};
            for (int e = 0; e < k; e++) {
                const float weight = weights[row * k + e];
                const float4* from = reinterpret_cast<const float4*>(experts + (row * k + e) * width) + 2 * i;
                const float4 a = from[0], b = from[1];
                const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
                for (int j = 0; j < 8; j++) total[j] += weight * values[j];
            }
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] += total[j];
        }
        kept[c] = pack8(f);
        if (sum) reinterpret_cast<uint4*>(sum + row * width)[i] = kept[c];
        unpack8(kept[c], f);
#pragma unroll
        for (int j = 0; j < 8; j++) square += f[j] * f[j];
    }
    const float r = 1.f / sqrtf(block_sum(square) / (float)width + eps);
#pragma unroll
    for (int c = 0; c < NORM_CHUNKS; c++) {
        const int i = threadIdx.x + c * NORM_THREADS;
        if (i >= chunks) break;
        float f[8], g[8];
        unpack8(kept[c], f);
        unpack8(reinterpret_cast<const uint4*>(w)[i], g);
#pragma unroll
        for (int j = 0; j < 8; j++) f[j] = g[j] * (f[j] * r);
        reinterpret_cast<uint4*>(y + row * width)[i] = pack8(f);
    }
}

constexpr int ROUTE_THREADS = 1024, ROUTE_EXPERTS = 256;

// Logits as whole numbers in the same order, of which none is 0. NaN counts as -inf, -0 as 0.
__device__ __forceinline__ u32 order_of(float logit) {
    const u32 bits = __float_as_uint(isnan(logit) ? -INFINITY : logit + 0.f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(u32 order) { return __uint_as_float(order >> 31 ? order & 0x7FFFFFFFu : ~order); }

// The k experts of a token and their weights, by one warp: the greatest logits, of equal ones the lower expert. A lane has every 32nd,
// OWN at most.
template <int OWN>
__device__ __forceinline__ void choose(u32* ids, float* weights, const float* logits, int experts, int k) {
    const int lane = threadIdx.x % 32;
    u32 own[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) own[i] = lane + 32 * i < experts ? order_of(logits[lane + 32 * i]) : 0;
    float mine = 0.f, top = 0.f;
    for (int round = 0; round < k; round++) {
        u32 best = 0;
#pragma unroll
        for (int i = 0; i < OWN; i++) best = max(best, own[i]);
        best = __reduce_max_sync(FULL, best);
        u32 id = ROUTE_EXPERTS;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (own[i] == best) id = min(id, (u32)(lane + 32 * i));
        id = __reduce_min_sync(FULL, id);
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (id == lane + 32 * i) own[i] = 0;
        if (round == 0) top = logit_of(best);
        if (lane == round) ids[round] = id, mine = logit_of(best);
    }
    const float e = expf(mine - top);
    float sum = 0.f;
    for (int j = 0; j < k; j++) sum += __shfl_sync(FULL, e, j);
    if (lane < k) weights[lane] = e / sum;
}

// One block. slots: all t K + j by expert, in their order; groups [count, 3]: expert, first place in slots and number of rows, at most
// `most` of them; groups that are not needed have no rows.
KERNEL __launch_bounds__(ROUTE_THREADS)
    rows_route(u32* __restrict__ ids, float* __restrict__ weights, u32* __restrict__ slots, u32* __restrict__ groups, const float* __restrict__ logits,
               int tokens, int experts, int k, int most, int count) {
    __shared__ u32 rows[ROUTE_EXPERTS], place[ROUTE_EXPERTS], before[ROUTE_THREADS / 32][ROUTE_EXPERTS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pairs = tokens * k;
    if (threadIdx.x < ROUTE_EXPERTS) rows[threadIdx.x] = 0;
    for (int token = warp; token < tokens; token += ROUTE_THREADS / 32) {
        u32* own = ids + token * k;
        if (experts <= 32) choose<1>(own, weights + token * k, logits + (i64)token * experts, experts, k);
        else if (experts <= 128) choose<4>(own, weights + token * k, logits + (i64)token * experts, experts, k);
        else choose<ROUTE_EXPERTS / 32>(own, weights + token * k, logits + (i64)token * experts, experts, k);
    }
    __syncthreads();
    for (int pair = threadIdx.x; pair < pairs; pair += ROUTE_THREADS) atomicAdd(&rows[ids[pair]], 1u); // whole numbers: any order gives the same
    __syncthreads();
    if (threadIdx.x < experts) {
        const u32 mine = rows[threadIdx.x];
        u32 first = 0, group = 0;
        for (int e = 0; e < threadIdx.x; e++) first += rows[e], group += (rows[e] + most - 1) / most;
        place[threadIdx.x] = first;
        for (u32 at = 0; at < mine; at += most, group++)
            if (group < count) groups[3 * group] = threadIdx.x, groups[3 * group + 1] = first + at, groups[3 * group + 2] = min(mine - at, (u32)most);
        if (threadIdx.x == experts - 1)
            for (; group < count; group++) groups[3 * group] = 0, groups[3 * group + 1] = 0, groups[3 * group + 2] = 0;
    }
    for (int base = 0; base < pairs; base += ROUTE_THREADS) {
        for (int e = lane; e < experts; e += 32) before[warp][e] = 0;
        __syncwarp();
        const int pair = base + threadIdx.x;
        const u32 id = pair < pairs ? ids[pair] : ROUTE_EXPERTS;
        const u32 same = __match_any_sync(FULL, id), rank = __popc(same & ((1u << lane) - 1));
        if (pair < pairs && rank == 0) before[warp][id] = __popc(same);
        __syncthreads();
        if (threadIdx.x < experts) {
            u32 row = place[threadIdx.x];
            for (int v = 0; v < ROUTE_THREADS / 32; v++) {
                const u32 here = before[v][threadIdx.x];
                before[v][threadIdx.x] = row;
                row += here;
            }
            place[threadIdx.x] = row;
        }
        __syncthreads();
        if (pair < pairs) slots[before[warp][id] + rank] = pair;
        __syncthreads();
    }
}
